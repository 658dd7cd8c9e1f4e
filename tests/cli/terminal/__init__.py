"""Tests of `transom.cli.terminal`."""
