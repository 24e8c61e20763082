"""The book: a Sphinx extension that makes its pages of the tests and of recorded results."""

from book.extension import setup

__all__ = ["setup"]
