"""Tests of `transom.server`."""
