"""Tests of the ground floor: settings and keys."""
