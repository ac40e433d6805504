"""The hotlog command, one file per group of verbs."""
