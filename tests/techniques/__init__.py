"""Tests of the techniques beyond the claims: bad input, edge cases."""
