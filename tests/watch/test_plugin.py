"""`pytest --dlconcepts-watch` and `watching()` in a project of its own."""

import pytest

TRAINING = """
    import torch

    def train(clear):
        layer = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for _ in range(2):
            if clear:
                optimizer.zero_grad()
            layer(torch.ones(2, 1)).sum().backward()
            optimizer.step()

    def test_right():
        train(clear=True)

    def test_wrong():
        train(clear=False)
"""


def test_a_test_that_breaks_a_law_fails(pytester: pytest.Pytester) -> None:
    """The failure has the law, the line, and the proof; a right training passes."""
    pytester.makepyfile(TRAINING)

    result = pytester.runpytest("--dlconcepts-watch")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*BROKEN  a-step-follows-its-own-batch*:9*backward()*"])


def test_nothing_is_watched_without_the_option(pytester: pytest.Pytester) -> None:
    """The plugin of an installed dlconcepts leaves other projects alone."""
    pytester.makepyfile(TRAINING)

    pytester.runpytest().assert_outcomes(passed=2)
