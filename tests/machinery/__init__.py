"""Tests of the pytest plugin, on small suites."""
