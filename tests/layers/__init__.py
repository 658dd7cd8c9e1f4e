"""Layers against plain formulas and published constants."""
