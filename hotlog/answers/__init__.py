"""What the doors share: what an API is, small answers, errors as clients see them, wide requests in slices."""
