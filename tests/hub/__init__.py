"""Tests of `transom.hub`."""
