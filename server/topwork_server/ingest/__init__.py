"""What is written into feature sets on its way there: what is known already is not encoded again, and order is kept."""
