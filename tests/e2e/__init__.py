"""The whole of Hotlog, from outside: real processes, real clients, a real object store."""
