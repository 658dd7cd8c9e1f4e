"""Tests of transom.llm."""
