"""Cluster metadata: records, image, journal on a conditional register."""
