"""Tests of `transom.metrics`."""
