"""The house rules as tests: floors, tidiness, generated pages."""
