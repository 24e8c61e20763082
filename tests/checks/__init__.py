"""Tests of `dlconcepts.checks`."""
