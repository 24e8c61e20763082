"""Read the recorded results: runs of the laws, one for each environment, and benchmarks.

They are the files under docs/results/, which docs/record.py and docs/rot.py write.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from book.suite import Law, Subject
from dlconcepts.testing.claims import Claim, all_claims
from dlconcepts.testing.records import load
from dlconcepts.testing.results import Item, Judged, judge, read_item

RESULTS = Path(__file__).parents[1] / "results"
MISSING = "not run yet"


@dataclass(frozen=True)
class Environment:
    """One device of one recorded run."""

    torch: str
    device: str
    facts: dict[str, str]
    claims: dict[str, Judged]

    @property
    def title(self) -> str:
        return f"torch {self.torch}, {self.device}"

    def item(self, law: Law, subject: Subject) -> Item | None:
        """Return the result of a law with a subject, or None if it did not run here."""
        judged = self.claims.get(law.claim.id)
        for item in judged.items if judged else ():
            same = (item.function, item.subject) == (law.function, subject.name)
            # A recorded mistake with another reason is not this mistake.
            reason = item.record.get("reason", "") if item.is_mistake else ""
            if same and reason == subject.reason:
                return item
        return None

    def is_stale(self, claim: Claim) -> bool:
        """Return whether the claim's file has changed since it ran here."""
        known = self.facts.get(f"source:{claim.file}")
        return known != sha256(claim.path.read_bytes()).hexdigest()[:16]


def outcome_of(item: Item | None) -> str:
    """Return the outcome of an item in one word."""
    if item is None:
        return MISSING
    return "rejected" if item.is_mistake and item.outcome == "ok" else item.outcome


def version_key(text: str) -> tuple[int, ...]:
    """Return a version as numbers, for sorting.

    >>> version_key("2.14.1+cu130") > version_key("2.6.0")
    True
    """
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("+")[0]))


@cache
def environments() -> list[Environment]:
    """Return the recorded environments, newest torch first, the CPU before other devices."""
    found = [part for file in RESULTS.glob("torch-*.xml") for part in read_run(file)]
    return sorted(found, key=lambda e: ([-n for n in version_key(e.torch)], e.device != "cpu"))


def read_run(file: Path) -> list[Environment]:
    """Read a recorded run: one environment for each device that its laws ran on."""
    suite = load(file)
    facts = {p.get("name", ""): p.get("value", "") for p in suite.iterfind("properties/property")}
    report = judge(map(read_item, suite.iter("testcase")), all_claims())
    judged = [
        (claim, [item for item in claim.items if item.record.get("kind") in ("right", "wrong")])
        for claim in report.claims
    ]
    devices = dict.fromkeys(item.record["device"] for _, items in judged for item in items)
    return [
        Environment(
            torch=facts["torch"].partition("+")[0],
            device=device,
            facts=facts,
            claims={
                claim.id: Judged(
                    claim.claim, [item for item in items if item.record["device"] == device]
                )
                for claim, items in judged
            },
        )
        for device in devices
    ]


def recorded(pattern: str) -> dict[str, Any]:
    """Return the recorded JSON files that match a pattern, by stem."""
    files = sorted(RESULTS.glob(pattern))
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
