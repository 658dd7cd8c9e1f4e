"""Tests of transom.weights."""
