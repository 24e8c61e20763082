"""The pytest plugin of `verify`: share the claims among processes, write each outcome at once.

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
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import settings

from dlconcepts.testing.results import add_properties, read_item, xml_text
from dlconcepts.testing.run import case_of, environment, find_devices, taken


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --stream, and --first-failure with the results of an earlier run, if there are any."""
    parser.addoption("--stream", type=Path, required=True)
    parser.addoption("--first-failure", type=Path)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Stream(config))


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> bool:
    """Collect nothing yet: a claim is collected, and imported, by the process that judges it."""
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run what no other process has taken: whole claims, or single items for the first failure."""
    config, folder = session.config, session.config.getoption("--stream").parent
    earlier = config.getoption("--first-failure")
    if earlier:
        items = list(session.perform_collect())
        soonest_failure_first(items, earlier)
        for item in items:
            if take(folder, item.nodeid):
                # What the next item could share is torn down: which that is, is not known yet.
                run_item(item, None)
        return True
    files = defaultdict(list)  # each has its demonstration and its laws
    for collector in session.perform_collect(in_order(config.args), genitems=False):
        files[collector.nodeid].append(collector)
    for name, collectors in files.items():
        if not take(folder, name):
            continue
        items = [item for collector in collectors for item in session.genitems(collector)]
        config.hook.pytest_collection_modifyitems(session=session, config=config, items=items)
        # A process before this one may have died of an item.
        items = [item for item in items if not taken(folder, item.nodeid).exists()]
        for item, following in zip_longest(items, items[1:]):
            take(folder, item.nodeid)
            run_item(item, following)
    return True


def run_item(item: pytest.Item, following: pytest.Item | None) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    if item.session.shouldfail:
        raise item.session.Failed(item.session.shouldfail)


def take(folder: Path, name: str) -> bool:
    """Take a claim or an item, and return whether no process has taken it before."""
    try:
        taken(folder, name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def in_order(paths: Sequence[str]) -> list[str]:
    """Put the claims with slow laws first, so that no process ends long after the others.

    Before them comes one quick claim, since people wait for the first verdict.
    """
    # `share` of the law mark lowers the number of examples of a slow law.
    slow = {path for path in paths if "share=" in Path(path).read_text(encoding="utf-8")}
    quick = next((path for path in paths if path not in slow), None)
    return sorted(paths, key=lambda path: (path != quick, path not in slow))


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
        """Write an item after its last phase."""
        self.reports[report.nodeid].append(report)
        if report.when == "teardown":
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
