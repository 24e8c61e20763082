"""Tests of `dlconcepts.parity`."""
