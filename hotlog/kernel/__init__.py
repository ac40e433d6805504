"""The ground floor: ids, errors, limits, settings, metrics.  Imports nothing of the house."""
