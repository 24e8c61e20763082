"""Training scripts, correct and wrong, on which `dlconcepts.watch` is tested."""
