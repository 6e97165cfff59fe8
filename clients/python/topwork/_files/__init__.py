"""Features, rows and predictions as files and as tables of other libraries."""
