"""The stories, a file for each part of the protocol.  Any file here is found; how to write one stands in tests/twin/__init__.py."""
