"""Tests of `transom.sampling`."""
