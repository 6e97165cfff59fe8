"""Heads: labels become examples, trainers fit them, the evaluation reports, and the result is stored and served."""
