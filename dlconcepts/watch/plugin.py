"""`pytest --dlconcepts-watch`: watch each test, and let one fail in which a law is broken."""

from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    text = "watch each test, and fail it if the code that it runs breaks a law of training"
    parser.getgroup("dlconcepts").addoption("--dlconcepts-watch", action="store_true", help=text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test; its report has what the laws say of it."""
    if not item.config.getoption("--dlconcepts-watch"):
        return (yield)
    from dlconcepts.watch.run import watching

    with watching() as report:
        result = yield
    item.add_report_section("call", "watch", str(report))
    report.raise_for_findings()
    return result
