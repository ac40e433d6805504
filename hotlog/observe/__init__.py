"""What an operator sees: metrics, health, HTTP."""
