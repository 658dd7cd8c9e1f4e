"""Tests of `transom.engine`."""
