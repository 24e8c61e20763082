"""The checks themselves, a module a topic."""
