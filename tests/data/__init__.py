"""The scripts that made the data in `dlconcepts/data`, and photographs for the tests."""
