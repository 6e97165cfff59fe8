"""The way of items into feature sets: what is known already is not encoded again, and order is kept."""
