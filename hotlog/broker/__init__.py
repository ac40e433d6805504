"""The node as the doors see it: what it hosts, and every change to it."""
