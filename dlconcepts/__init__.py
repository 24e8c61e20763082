"""Every technique of an introductory deep learning course, each with the law it obeys."""

__version__ = "0.1.0"
