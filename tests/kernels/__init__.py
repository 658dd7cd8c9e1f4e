"""Tests of `transom.kernels`: the native code against its NumPy specification."""
