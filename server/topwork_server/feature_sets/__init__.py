"""Feature sets: stored rows (Lance)."""
