"""Tests of `dlconcepts.support`."""
