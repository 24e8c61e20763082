"""Tests of `practice`."""
