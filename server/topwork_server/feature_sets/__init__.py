"""Feature sets: Lance datasets with their ids, metadata, versions, pins, filters and checksums."""
