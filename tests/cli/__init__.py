"""Tests of `transom.cli`."""
