"""Stores of blobs: places that keep immutable bytes under their SHA-256."""
