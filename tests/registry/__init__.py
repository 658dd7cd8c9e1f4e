"""Tests of `transom.registry`."""
