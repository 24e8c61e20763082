"""What a run of the laws says: read from its results.xml, and told as one HTML page.

Nothing else is looked at but the ledger of claims, so nothing is told that the run did not prove.
"""

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LESSONS = (
    *("tensors", "networks", "autograd", "training", "validation"),
    *("checkpoints", "images", "transfer", "devices"),
)
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
        words = self.function.rpartition(".")[2].removeprefix("test_").replace("_", " ")
        return words[:1].upper() + words[1:]


@dataclass(frozen=True)
class Claim:
    """A claim of the ledger and the items of the run that judge it."""

    id: str
    verdict: str
    text: Mapping[str, str]
    items: Sequence[Item]

    @property
    def lesson(self) -> str:
        """Lesson that the claim belongs to."""
        return self.id.partition(".")[0]

    @property
    def right(self) -> list[Item]:
        """Items that the claim's laws must accept."""
        return [item for item in self.items if not item.is_mistake]

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
        if self.verdict == "opinion":
            return "opinion"
        outcomes = {item.outcome for item in self.items} or {"pending"}
        return next(x for x in ("FAILED", "skipped", "pending", "ok") if x in outcomes)


@dataclass(frozen=True)
class Report:
    """All that a run says."""

    claims: Sequence[Claim]
    others: Sequence[Item]

    @property
    def lessons(self) -> dict[str, list[Claim]]:
        """Claims of each lesson, in the order of the course."""
        lessons = {name: [c for c in self.claims if c.lesson == name] for name in LESSONS}
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
            "time of the items": f"{sum(item.seconds for item in self.items):.1f} s",
        }


def count(outcomes: Iterable[str]) -> str:
    """Return how often each outcome occurs, in words.

    >>> count(["ok", "pending", "ok"])
    '2 ok, 1 pending'
    """
    counts = Counter(outcomes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])


def read(results: Path, ledger_file: Path, lessons: Iterable[str] = LESSONS) -> Report:
    """Read what a run says of the claims of these lessons."""
    ledger = tomllib.loads(ledger_file.read_text(encoding="utf-8"))["claim"]
    items = [read_item(case) for case in ET.parse(results).iter("testcase")]
    judged: dict[str, list[Item]] = {claim["id"]: [] for claim in ledger}
    others: list[Item] = []
    for item in items:
        judged.get(item.record.get("claim", ""), others).append(item)
    claims = [Claim(claim["id"], claim["verdict"], claim, judged[claim["id"]]) for claim in ledger]
    # tests/test_claims.py skips once for each pending claim, which is told with the claims.
    pending = {f"pending: {claim.id}" for claim in claims}
    return Report(
        [claim for claim in claims if claim.lesson in lessons],
        [item for item in others if item.message not in pending],
    )


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
