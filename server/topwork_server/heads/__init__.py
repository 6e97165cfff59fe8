"""Heads: labels become examples, trainers learn, the judge reports, and what was learnt is kept and served."""
