"""Transom: an OpenAI-compatible inference server whose subject is the context window."""
