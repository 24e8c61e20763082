"""What a run of the laws proved: read from its results.xml, and shown as one HTML page.

Only the heads of the claims are read besides, so nothing is shown that the run did not prove.
"""

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from dlconcepts.testing.claims import LESSONS, Claim, title_of

OUTCOMES = ("ok", "FAILED", "skipped", "pending", "opinion")


@dataclass(frozen=True)
class Item:
    """One item of the run: a law with one subject on one device, or an ordinary test."""

    function: str
    parameters: str
    outcome: str
    message: str
    details: str
    seconds: float
    record: Mapping[str, str]

    @property
    def is_mistake(self) -> bool:
        """Whether the subject is a mistake, which the law must reject."""
        return self.record.get("kind") == "wrong"

    @property
    def subject(self) -> str:
        """Name of what the law was tested on."""
        return self.record["subject"]

    @property
    def title(self) -> str:
        """Name of the test as a sentence."""
        return title_of(self.function.rpartition(".")[2])


@dataclass(frozen=True)
class Judged:
    """A claim, and the items of the run that judge it."""

    claim: Claim
    items: Sequence[Item]

    @property
    def id(self) -> str:
        """Id of the claim."""
        return self.claim.id

    @property
    def verdict(self) -> str:
        """Verdict on the claim."""
        return self.claim.verdict

    @property
    def right(self) -> list[Item]:
        """Items that the claim's laws must accept."""
        return [item for item in self.items if item.record.get("kind") == "right"]

    @property
    def mistakes(self) -> list[Item]:
        """Items that the claim's laws must reject."""
        return [item for item in self.items if item.is_mistake]

    @property
    def rejected(self) -> int:
        """Number of mistakes that were rejected for their reason."""
        return sum(item.outcome == "ok" for item in self.mistakes)

    @property
    def examples(self) -> int:
        """Number of examples on which the laws were tested."""
        return sum(int(item.record.get("examples", 0)) for item in self.right)

    @property
    def devices(self) -> str:
        """Devices that the laws ran on."""
        return ", ".join(dict.fromkeys(item.record["device"] for item in self.right))

    @property
    def seconds(self) -> float:
        """Time that laws and mistakes took."""
        return sum(item.seconds for item in self.items)

    @property
    def outcome(self) -> str:
        """What the run says of the claim; a claim counts as ok only if nothing was skipped."""
        outcomes = {item.outcome for item in self.items}
        if not self.right:
            outcomes.add("opinion" if self.verdict == "opinion" else "pending")
        return next(x for x in ("FAILED", "skipped", "pending", "opinion", "ok") if x in outcomes)


@dataclass(frozen=True)
class Report:
    """All that a run says."""

    claims: Sequence[Judged]
    others: Sequence[Item]

    @property
    def lessons(self) -> dict[str, list[Judged]]:
        """Claims of each lesson, in the order of the course."""
        lessons = {name: [c for c in self.claims if c.claim.lesson == name] for name in LESSONS}
        return {name: claims for name, claims in lessons.items() if claims}

    @property
    def items(self) -> list[Item]:
        """All items of the run."""
        return [*(item for claim in self.claims for item in claim.items), *self.others]

    @property
    def failed(self) -> list[Item]:
        """Items that fell short."""
        return [item for item in self.items if item.outcome == "FAILED"]

    @property
    def skipped(self) -> list[str]:
        """What was skipped, and why."""
        skipped = [item for item in self.items if item.outcome == "skipped"]
        return list(dict.fromkeys(f"{item.title}: {item.message}" for item in skipped))

    @property
    def pending(self) -> list[str]:
        """Ids of the claims that have no law yet."""
        return [claim.id for claim in self.claims if claim.outcome == "pending"]

    @property
    def totals(self) -> dict[str, str]:
        """What is counted, in words."""
        right = [item for claim in self.claims for item in claim.right]
        laws = {item.function for item in right}
        broken = {item.function for item in right if item.outcome != "ok"}
        mistakes = sum(len(claim.mistakes) for claim in self.claims)
        return {
            "claims": count(claim.outcome for claim in self.claims),
            "laws": f"{len(laws - broken)} of {len(laws)} hold",
            "examples": f"{sum(claim.examples for claim in self.claims):,}",
            "mistakes": f"{sum(c.rejected for c in self.claims)} of {mistakes} rejected",
            "other tests": count(item.outcome for item in self.others),
            "test time": f"{sum(item.seconds for item in self.items):.1f} s",
        }


def count(outcomes: Iterable[str]) -> str:
    """Return how often each outcome occurs, in words.

    >>> count(["ok", "pending", "ok"])
    '2 ok, 1 pending'
    """
    counts = Counter(outcomes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])


def read(results: Path, claims: Iterable[Claim]) -> Report:
    """Read what a run says of these claims."""
    judged: dict[str, list[Item]] = {claim.id: [] for claim in claims}
    others: list[Item] = []
    for case in ET.parse(results).iter("testcase"):
        item = read_item(case)
        judged.get(item.record.get("claim", ""), others).append(item)
    return Report([Judged(claim, judged[claim.id]) for claim in claims], others)


def read_item(case: ET.Element) -> Item:
    """Read one item of the JUnit XML."""
    name, _, parameters = case.get("name", "").partition("[")
    faults = [fault for fault in case if fault.tag in ("failure", "error", "skipped")]
    skipped = all(fault.tag == "skipped" for fault in faults)
    return Item(
        function=f"{case.get('classname')}.{name}",
        parameters=parameters.removesuffix("]"),
        outcome="ok" if not faults else "skipped" if skipped else "FAILED",
        message="\n".join(fault.get("message", "") for fault in faults),
        details="\n".join(fault.text or "" for fault in faults),
        seconds=float(case.get("time", 0)),
        record={p.get("name", ""): p.get("value", "") for p in case.iter("property")},
    )


def render(report: Report, environment: Mapping[str, str]) -> str:
    """Return the report as one HTML page that needs nothing else."""
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    choices = {
        "lesson": report.lessons,
        "verdict": dict.fromkeys(claim.verdict for claim in report.claims),
        "result": dict.fromkeys(claim.outcome for claim in report.claims),
    }
    return page.from_string(template).render(
        report=report, environment=environment, choices=choices
    )
