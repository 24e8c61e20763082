'''Laws as a pytest plugin: a test that must accept the right code and reject each named mistake.

Any project can use it. Load the plugin in `conftest.py`:

    pytest_plugins = ["dlconcepts.testing.plugin"]

and write a law in a test file:

    from dlconcepts.testing.laws import law
    from hypothesis import given, strategies as st

    def squares(x):
        """Multiply a number by itself."""
        return x * x

    @law(right=lambda x: x + x, wrong={squares: "twice the number"})
    @given(x=st.integers())
    def test_doubling(double, x):
        """Doubling adds a number to itself."""
        assert double(x) == 2 * x, "the result is twice the number"

pytest makes two items of it. The first runs the law on `right` and must pass. The second runs it on
`squares` and must fail, with an assertion whose message contains the stated reason.

- `dlconcepts.testing.laws`: the `law` mark, and how a run is judged and recorded
- `dlconcepts.testing.claims`: claims of a course, read from the heads of test files
- `dlconcepts.testing.results`: what a recorded run says of each claim
- `dlconcepts.testing.compare`: what differs between two runs
'''
