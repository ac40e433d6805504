"""Object store adapters behind the ObjectStore port."""
