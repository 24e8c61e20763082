"""The book: a Sphinx extension that builds pages from the tests and the recorded results."""

from book.extension import setup

__all__ = ["setup"]
