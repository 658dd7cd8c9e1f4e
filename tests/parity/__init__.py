"""Comparisons with the reference implementations, live: torch and transformers. Run by `make parity`."""
