"""The front: listeners, connections, dispatch; what every request passes before the code of its API."""
