"""The front: listeners, connections, dispatch; what every request passes before it comes to its door."""
