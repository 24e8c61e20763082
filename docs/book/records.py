"""What was recorded: the runs of the laws, one for each environment, and other results.

Nothing is read but the files under docs/results/, which docs/record.py and docs/rot.py write.
"""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from book.suite import TESTS, Law, Subject
from dlconcepts.testing.results import Claim, Item, read

RESULTS = Path(__file__).parents[1] / "results"
MISSING = "not run yet"


@dataclass(frozen=True)
class Environment:
    """One device of one recorded run."""

    torch: str
    device: str
    facts: dict[str, str]
    claims: dict[str, Claim]
    others: dict[str, str]

    @property
    def title(self) -> str:
        """Torch version and device."""
        return f"torch {self.torch}, {self.device}"

    def item(self, law: Law, subject: Subject) -> Item | None:
        """Return the item of a law with a subject, or None if it was not run here."""
        function = f"tests.test_{law.chapter}.{law.name}"
        claim = self.claims.get(law.claim)
        for item in claim.items if claim else ():
            same = item.function == function and item.subject == subject.name
            if same and item.is_mistake == bool(subject.reason):
                # A mistake whose reason has changed is another mistake than the recorded one.
                return (
                    item
                    if item.record.get("reason", "") == subject.reason or not (item.is_mistake)
                    else None
                )
        return None

    def is_stale(self, chapter: str) -> bool:
        """Return whether the test file has changed since the run."""
        file = TESTS / f"test_{chapter}.py"
        known = self.facts.get(f"source:{file.name}")
        return known != sha256(file.read_bytes()).hexdigest()[:16]


def outcome_of(item: Item | None) -> str:
    """Return what a run says of an item, in a word."""
    if item is None:
        return MISSING
    return "rejected" if item.is_mistake and item.outcome == "ok" else item.outcome


def version_key(text: str) -> tuple[int, ...]:
    """Return a version as numbers, to sort by.

    >>> version_key("2.14.1+cu130") > version_key("2.6.0")
    True
    """
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0]))


@cache
def environments() -> list[Environment]:
    """Return what was recorded, the newest torch first, and the CPU before other devices."""
    found = [part for file in RESULTS.glob("torch-*.xml") for part in read_run(file)]
    return sorted(found, key=lambda e: ([-n for n in version_key(e.torch)], e.device != "cpu"))


def read_run(file: Path) -> list[Environment]:
    """Read a recorded run: an environment for each device that its laws ran on."""
    properties = ET.parse(file).find("properties")
    facts = {p.get("name", ""): p.get("value", "") for p in properties if properties is not None}
    report = read(file, TESTS / "claims.toml")
    devices = dict.fromkeys(
        item.record["device"] for claim in report.claims for item in claim.items
    )
    others: dict[str, str] = {}
    for item in report.others:
        if others.get(item.function) != "FAILED":  # one that failed of several parameters
            others[item.function] = item.outcome
    return [
        Environment(
            torch=facts["torch"].partition("+")[0],
            device=device,
            facts=facts,
            claims={
                claim.id: Claim(
                    claim.id,
                    claim.verdict,
                    claim.text,
                    [item for item in claim.items if item.record["device"] == device],
                )
                for claim in report.claims
            },
            others=others,
        )
        for device in devices
    ]


def recorded(pattern: str) -> dict[str, Any]:
    """Return the recorded JSON files of a pattern by their name without ending."""
    files = sorted(RESULTS.glob(pattern))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
