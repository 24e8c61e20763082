"""Right answers: each does what its exercise asks."""
