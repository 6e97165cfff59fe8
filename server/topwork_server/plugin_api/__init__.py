"""Base classes, hooks and registry of plugins: what a plugin author implements, found, checked and listed."""
