"""What `python -m dlconcepts practice` does: learners write the techniques, the laws judge them."""
