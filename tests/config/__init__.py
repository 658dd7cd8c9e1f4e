"""Tests of transom.config."""
