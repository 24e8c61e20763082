"""Answers of learners, for the judge to accept or refuse."""
