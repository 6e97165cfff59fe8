"""The way from items to rows: preprocessing, admission, scheduling, batching and the models in memory."""
