"""Weights: safetensors and GGUF files, checked before a byte of them is used, and the strict loader of models.

Knows tensors by name and shape; knows no architecture.
"""
