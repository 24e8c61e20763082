"""The processes that run scripts; and the scripts, which would run if pytest imported them."""

import pytest

from tests.watch.running import Runner

collect_ignore = ["kinds"]


@pytest.fixture(scope="session")
def runner():
    server = Runner()
    yield server
    server.close()
