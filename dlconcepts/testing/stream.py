"""The pytest plugin of `verify`: order the items, and write each outcome to a file at once.

Whatever ends the run, Ctrl-C or a killed process, the file has what was judged before. Each line is
an element of a JUnit XML file, as a JSON string: `testcase`, or `start` when an item starts, or
`properties` of the run.
"""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import settings

from dlconcepts.testing.results import add_properties, read_item, xml_text
from dlconcepts.testing.run import environment, find_devices


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --stream, and --first-failure with the results of an earlier run, if there are any."""
    parser.addoption("--stream", type=Path, required=True)
    parser.addoption("--first-failure", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    """Write from the process that starts the others, and receives their reports."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Stream(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the claims with slow laws first, so that no process ends long after the others.

    Before them comes one quick claim, since people wait for the first verdict.
    """
    earlier = config.getoption("--first-failure")
    if earlier:
        soonest_failure_first(items, earlier)
    else:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        quick = next((item.path for item in items if item.path not in slow), None)
        items.sort(key=lambda item: (item.path != quick, item.path not in slow))


def soonest_failure_first(items: list[pytest.Item], earlier: Path) -> None:
    """Sort for the first failure: what failed before, then laws, the fastest first, then mistakes.

    Without an earlier run: the first law of each claim, then the second of each, and so on.
    """
    cases = ET.parse(earlier).iter("testcase") if earlier.is_file() else ()
    known = {name_of(case): read_item(case) for case in cases}
    places: dict[Path, int] = defaultdict(int)

    def order(item: pytest.Item) -> tuple[float, ...]:
        before = known.get(name_of(case_of(item.nodeid)))
        failed = before is not None and before.outcome == "FAILED"
        right, slow = (bool(item.get_closest_marker(name)) for name in ("right", "slow"))
        places[item.path] += 1
        return not failed, not right, before.seconds if before else 0, slow, places[item.path]

    items.sort(key=order)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Run an item once: pytest-xdist would run one that kills its process again and again."""
    begun = item.config.getoption("--stream").with_name(sha256(item.nodeid.encode()).hexdigest())
    if begun.exists():
        return True
    begun.touch()
    return None


def case_of(nodeid: str) -> ET.Element:
    """Return an item's test case, named as pytest's own JUnit XML names it."""
    path, bracket, parameters = nodeid.partition("[")
    file, *names = path.split("::")
    *places, name = file.removesuffix(".py").replace("/", "."), *names
    full = xml_text(name + bracket + parameters)
    return ET.Element("testcase", classname=".".join(places), name=full)


def name_of(case: ET.Element) -> str:
    return f"{case.get('classname')}.{case.get('name')}"


class Stream:
    """Write what pytest reports."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.file = config.getoption("--stream").open("a", encoding="utf-8", buffering=1)
        self.reports: dict[str, list[pytest.TestReport]] = defaultdict(list)
        self.parent = os.getppid()

    def write(self, element: ET.Element) -> None:
        self.file.write(json.dumps(ET.tostring(element, encoding="unicode")) + "\n")
        if os.getppid() != self.parent:  # `verify` was killed, so nobody waits for the rest
            os._exit(1)

    def pytest_sessionstart(self) -> None:
        """Write the devices, the profile and the versions."""
        # Imported here: pytest warns of a plugin that was imported before conftest.py names it.
        from dlconcepts.testing.plugin import CHOSEN

        devices = find_devices([device.type for device in self.config.stash[CHOSEN]])
        run = ET.Element("run")
        add_properties(run, environment(devices, settings.get_current_profile_name()))
        self.write(run)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(ET.Element("start", nodeid=nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write an item after its last phase; "???" is that of an item whose process died."""
        self.reports[report.nodeid].append(report)
        if report.when in ("teardown", "???"):
            self.write_item(self.reports.pop(report.nodeid))

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Write a file that could not be collected."""
        if report.failed:
            self.write_item([report])

    def write_item(self, reports: Sequence[pytest.TestReport | pytest.CollectReport]) -> None:
        """Write what the phases of an item say."""
        case = case_of(reports[-1].nodeid)
        case.set("time", f"{sum(getattr(report, 'duration', 0) for report in reports):.3f}")
        add_properties(case, dict(getattr(reports[-1], "user_properties", ())))
        for report in reports:
            if report.skipped and isinstance(report.longrepr, tuple):
                reason = report.longrepr[2].removeprefix("Skipped: ")
                ET.SubElement(case, "skipped", message=xml_text(reason))
            elif report.failed:
                text = report.longreprtext
                crash = getattr(report.longrepr, "reprcrash", None)
                said = xml_text(crash.message if crash else text.rpartition("\n")[2])
                ET.SubElement(case, "failure", message=said).text = xml_text(text)
        self.write(case)
