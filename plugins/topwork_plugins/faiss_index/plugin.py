"""Kinds of index on FAISS."""
