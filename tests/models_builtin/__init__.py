"""Tests of the bundled models and of the program that writes one."""
