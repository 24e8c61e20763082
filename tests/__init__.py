"""The laws, a folder a lesson and a file a claim, and the tests of the tools."""
