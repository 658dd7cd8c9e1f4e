"""Weights: safetensors files, checked before a byte of them is used, and the strict loader models are built from.

Knows tensors by name and shape; knows no architecture.
"""
