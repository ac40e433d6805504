"""Tests of Hotlog: `make test` runs them all."""
