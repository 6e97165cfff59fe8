"""The report as data, and as a page."""
