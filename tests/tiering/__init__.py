"""Tests of the cold tier's write side: formats, manifests, uploader, verification."""
