"""The pytest plugin: make items of a law, run and judge them, and record what happened.

Load it with `pytest_plugins = ["dlconcepts.testing.plugin"]`. The ini option `claims` names the
folder whose test files hold the claims of a course, a folder a lesson; without it a law may stand
anywhere. What happened is recorded in the JUnit XML properties of each item.
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _pytest.doctest import DoctestItem, DoctestModule
from hypothesis import settings
from torch import nn

from dlconcepts.support import devices
from dlconcepts.testing import claims, hypothesis_bridge
from dlconcepts.testing.laws import FAILURES, Law, case_of, cases_of
from dlconcepts.testing.randomness import torch_random

CHOSEN = pytest.StashKey[list[torch.device]]()
MARKERS = (
    "law(...): a test that accepts the right subject and rejects mistakes; see testing.laws.law",
    "right(case): the run of a law on its right subject, made by the law mark",
    "mistake(case): the run of a law on a mistake, made by the law mark",
    "data(name): the photographs and weights that an item runs on, for the report",
    "demonstration: the lines at the top of a claim file",
    "slow: takes seconds",
)
# The names that the lines at the top of a claim file may use without an import.
DEMONSTRATION_NAMES = {"torch": torch, "nn": nn, "F": F, "np": np}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("claims", "folder whose test files hold the claims of a course", default="")
    parser.addoption(
        "--device",
        action="append",
        choices=[*devices.DEVICES, "all"],
        help="device to run the laws on; may be given more than once (default: cpu)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the chosen devices; one that is missing ends the run with exit status 4."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    os.environ.setdefault(devices.WORKSPACE, ":4096:8")  # laws of determinism need it
    try:
        chosen = devices.find_devices(config.getoption("--device") or ["cpu"])
    except devices.DeviceUnavailableError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[CHOSEN] = chosen
    modules = [getattr(torch, device.type, None) for device in chosen if device.type != "cpu"]
    torch_random.modules = [module for module in modules if module]  # "meta" has none


def pytest_report_header(config: pytest.Config) -> str:
    names = ", ".join(str(device) for device in config.stash[CHOSEN])
    return f"torch {torch.__version__} on {names}, profile {settings.get_current_profile_name()}"


@pytest.fixture(scope="session", autouse=True)
def hardware(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Record torch's version and the hardware behind each device."""
    record_testsuite_property("torch", str(torch.__version__))
    for device in request.config.stash[CHOSEN]:
        record_testsuite_property(str(device), devices.hardware(device))


def claim_at(config: pytest.Config, path: Path) -> claims.Claim | None:
    """Return the claim that a test file holds; None in a project without claims.

    Raises CollectError, with file, line and remedy, for a file that breaks the rules of claims.
    """
    folder = config.getini("claims")
    if not folder or not path.is_relative_to(config.rootpath / folder):
        return None
    try:
        claim = claims.claim_of_file(path, config.rootpath / folder)
        list(claim.laws)  # their marks may break a rule, too
        return claim
    except claims.ClaimError as error:
        raise pytest.Collector.CollectError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> None:
    """Refuse a claim file that breaks the rules before it is imported, and no other file."""
    if isinstance(collector, pytest.File) and claims.is_claim_file(collector.path):
        try:
            claim_at(collector.config, collector.path)
        except pytest.Collector.CollectError as error:
            collector.collect = functools.partial(refuse, collector, error)  # type: ignore[method-assign]


def refuse(collector: pytest.Collector, error: Exception) -> list[pytest.Item]:
    """Raise the error where tests are collected, once: doctests are collected apart."""
    if isinstance(collector, DoctestModule):
        return []
    raise error


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one item of a law for each device, and one for each mistake."""
    mark = metafunc.definition.get_closest_marker("law")
    if mark is None:
        return
    test, law = metafunc.function, mark.args[0] if mark.args else None
    if fault := next(faults_of(metafunc, law), ""):
        path, line = metafunc.definition.path, inspect.unwrap(test).__code__.co_firstlineno
        raise pytest.Collector.CollectError(f"{path}:{line}: the law {test.__name__} {fault}")
    assert isinstance(law, Law)
    cases = [
        pytest.param(case.subject, id=case.id, marks=case.marks)
        for case in cases_of(law, metafunc.config.stash[CHOSEN])
    ]
    metafunc.parametrize(hypothesis_bridge.subject_argument(test), cases)


def faults_of(metafunc: pytest.Metafunc, law: object) -> Generator[str]:
    """Yield what is wrong with a law: its mark, its claim, its inputs."""
    if not isinstance(law, Law):
        yield "has a bare mark; write @law(right=..., wrong={mistake: 'reason'})"
        return
    yield from law.faults()
    if not metafunc.function.__doc__:
        yield "has no docstring; say in one sentence what is true"
    path, config = metafunc.definition.path, metafunc.config
    if not hypothesis_bridge.is_law(metafunc.function):
        yield "has no generated inputs; add @given"
    claim = claim_at(config, path)
    if claim is not None and claim.verdict == "opinion":
        yield f"is about {claim.id}, an opinion, which has no law; change the verdict, or delete it"


def pytest_itemcollected(item: pytest.Item) -> None:
    """Record what is known of an item before it runs, so that a skipped one is recorded too."""
    case, test = case_of(item), item.dtest if isinstance(item, DoctestItem) else None
    claim = claim_at(item.config, item.path) if claims.is_claim_file(item.path) else None
    record: dict[str, object] = {}
    if claim is not None:
        record = {"claim": claim.id, "verdict": claim.verdict}
    if case is not None:
        record |= {
            "kind": "wrong" if case.reason else "right",
            "subject": case.name,
            "reason": case.reason or case.law.because,
            "device": str(case.device),
            "cpu_only": case.law.cpu_only,
            "torch": str(torch.__version__),  # a plain str, which pytest-xdist can send
        }
    elif claim is not None and test and test.docstring == test.globs["__doc__"]:
        # The lines at the top of the file run as they are printed, without the file's own names.
        test.globs = {**DEMONSTRATION_NAMES, "__name__": "demonstration"}
        item.add_marker("demonstration")
        record["kind"] = "demonstration"
    if data := item.get_closest_marker("data"):
        record["data"] = data.args[0]
    item.user_properties.extend(record.items())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a case of a law, judge its outcome and record what happened."""
    __tracebackhide__ = True
    case = case_of(item)
    if case is None or not isinstance(item, pytest.Function):
        return (yield)
    outcome: object = None
    failure: BaseException | None = None
    started = time.perf_counter()
    with case.running(item.obj):
        try:
            outcome = yield
        except FAILURES as error:
            failure = error
    seconds, notes = time.perf_counter() - started, getattr(failure, "__notes__", [])
    record: dict[str, object] = {"examples": case.examples, "counterexample": "\n".join(notes)}
    record["seconds"] = f"{seconds:.3f}"
    item.user_properties.extend(record.items())
    case.judge(failure, item)
    return outcome
