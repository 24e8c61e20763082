"""Tests of the book and the README."""
