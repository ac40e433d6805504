"""The outside world as an argument: ports and their real forms."""
