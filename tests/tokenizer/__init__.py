"""Tests of transom.tokenizer."""
