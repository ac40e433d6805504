"""Real processes killed with kill -9, and what must be true afterwards."""
