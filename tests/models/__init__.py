"""Architectures against a plain NumPy forward pass."""
