"""Images for every encoder that reads them: decoding, bounds and preprocessing without torch."""
