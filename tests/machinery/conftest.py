"""Fixtures of the tests of the machinery."""

import pytest

from tests.machinery.suites import Suite


@pytest.fixture
def suite(pytester: pytest.Pytester) -> Suite:
    return Suite(pytester)


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the meta device, which every machine has, a second device for laws."""
    import torch

    monkeypatch.setattr("dlconcepts.support.devices.find_device", torch.device)
    monkeypatch.setattr("dlconcepts.support.devices.DEVICES", ("cpu", "meta"))
