"""What a run of the laws proved: read from its results.xml, and shown as one HTML page.

The only other source is the heads of the claims, so the page shows nothing that the run did not
prove.
"""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from dlconcepts.testing.claims import LESSONS, Claim, title_of

# The last that occurs is that of the claim. Unfinished: some of its laws or mistakes did not run.
OUTCOMES = ("ok", "opinion", "skipped", "unfinished", "FAILED")
NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Item:
    """One item of the run: a law with one subject on one device, or another test."""

    function: str
    parameters: str
    outcome: str
    message: str
    details: str
    seconds: float
    record: Mapping[str, str]

    @property
    def kind(self) -> str:
        """What the item is: "right", "wrong" or "demonstration"; empty for other tests."""
        return self.record.get("kind", "")

    @property
    def is_mistake(self) -> bool:
        return self.kind == "wrong"

    @property
    def subject(self) -> str:
        return self.record["subject"]

    @property
    def law(self) -> str:
        """Name of the test function."""
        return self.function.rpartition(".")[2]

    @property
    def title(self) -> str:
        return title_of(self.law)


@dataclass(frozen=True)
class Judged:
    """A claim, and the items of the run that judge it."""

    claim: Claim
    items: Sequence[Item]

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def verdict(self) -> str:
        return self.claim.verdict

    @property
    def right(self) -> list[Item]:
        """Laws on the right subject, which must pass."""
        return [item for item in self.items if item.kind == "right"]

    @property
    def mistakes(self) -> list[Item]:
        """Laws on a mistake, which must fail."""
        return [item for item in self.items if item.is_mistake]

    @property
    def rejected(self) -> int:
        """Number of mistakes that were rejected for the stated reason."""
        return sum(item.outcome == "ok" for item in self.mistakes)

    @property
    def examples(self) -> int:
        """Number of examples that ran on right subjects."""
        return sum(int(item.record.get("examples", 0)) for item in self.right)

    @property
    def devices(self) -> str:
        return ", ".join(dict.fromkeys(item.record["device"] for item in self.right))

    @property
    def seconds(self) -> float:
        return sum(item.seconds for item in self.items)

    @property
    def is_complete(self) -> bool:
        """Whether each law ran, and each of its mistakes, which run after it."""
        ran = Counter((item.kind, item.law) for item in self.items)
        return all(
            ran["right", law.name] and ran["wrong", law.name] >= len(law.wrong)
            for law in self.claim.laws
        )

    @property
    def outcome(self) -> str:
        """Outcome of the claim: ok only if all of its laws and mistakes ran and passed."""
        outcomes = {item.outcome for item in self.items}
        if not self.is_complete:
            outcomes.add("unfinished")
        elif self.verdict == "opinion":
            outcomes.add("opinion")
        return max(outcomes, key=OUTCOMES.index)


@dataclass(frozen=True)
class Report:
    """The outcomes of a run."""

    claims: Sequence[Judged]
    others: Sequence[Item]

    @property
    def lessons(self) -> dict[str, list[Judged]]:
        """Claims of each lesson, in course order."""
        lessons = {name: [c for c in self.claims if c.claim.lesson == name] for name in LESSONS}
        return {name: claims for name, claims in lessons.items() if claims}

    @property
    def items(self) -> list[Item]:
        return [*(item for claim in self.claims for item in claim.items), *self.others]

    @property
    def failed(self) -> list[Item]:
        return [item for item in self.items if item.outcome == "FAILED"]

    @property
    def skipped(self) -> list[str]:
        """What was skipped, and why."""
        skipped = [item for item in self.items if item.outcome == "skipped"]
        return list(dict.fromkeys(f"{item.title}: {item.message}" for item in skipped))

    @property
    def unfinished(self) -> list[Judged]:
        return [claim for claim in self.claims if not claim.is_complete]

    @property
    def totals(self) -> dict[str, str]:
        right = [item for claim in self.claims for item in claim.right]
        laws = {item.function for item in right}
        broken = {item.function for item in right if item.outcome != "ok"}
        mistakes = [item.outcome == "ok" for claim in self.claims for item in claim.mistakes]
        data = dict.fromkeys(item.record["data"] for item in right if "data" in item.record)
        shown = count(item.outcome for item in self.items if item.kind == "demonstration")
        return {
            "claims": count(claim.outcome for claim in self.claims),
            "laws": f"{len(laws - broken)} of {len(laws)} hold",
            "examples": f"{sum(claim.examples for claim in self.claims):,}",
            "mistakes": f"{sum(mistakes)} of {len(mistakes)} rejected",
            "demonstrations": shown or "none",
            "other tests": count(item.outcome for item in self.others) or "none",
            **({"photographs": "; ".join(data)} if data else {}),
            "test time": f"{sum(item.seconds for item in self.items):.1f} s",
        }


def count(outcomes: Iterable[str]) -> str:
    """Return how often each outcome occurs, in words.

    >>> count(["ok", "opinion", "ok"])
    '2 ok, 1 opinion'
    """
    counts = Counter(outcomes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])


def read(results: Path, claims: Iterable[Claim]) -> Report:
    """Read the results of a run of these claims."""
    return judge(map(read_item, ET.parse(results).iter("testcase")), claims)


def judge(items: Iterable[Item], claims: Iterable[Claim]) -> Report:
    """Return the outcome of each claim: what its items say."""
    found: dict[str, list[Item]] = {claim.id: [] for claim in claims}
    others: list[Item] = []
    for item in items:
        found.get(item.record.get("claim", ""), others).append(item)
    return Report([Judged(claim, found[claim.id]) for claim in claims], others)


def read_item(case: ET.Element) -> Item:
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


def xml_text(value: object) -> str:
    """Return a value as text, without the characters that XML cannot hold."""
    return NOT_XML.sub("�", str(value))


def add_properties(parent: ET.Element, values: Mapping[str, object]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=xml_text(value))


def render(report: Report, environment: Mapping[str, str]) -> str:
    """Return the report as one self-contained HTML page."""
    template = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    choices = {
        "lesson": report.lessons,
        "verdict": dict.fromkeys(claim.verdict for claim in report.claims),
        "result": dict.fromkeys(claim.outcome for claim in report.claims),
    }
    values = {"report": report, "environment": environment, "choices": choices}
    return page.from_string(template).render(values)
