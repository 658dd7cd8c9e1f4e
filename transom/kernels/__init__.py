"""The only door to native code."""
