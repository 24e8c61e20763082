"""Compare two runs of the laws: verdicts, counterexamples, messages and exceptions.

What only one of the runs has, or what cannot be compared, is named and never counts as equal.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dlconcepts.support.errors import UserError, explaining
from dlconcepts.testing.records import clean_case, load, sources
from dlconcepts.testing.results import Item, read_item

WORSE = ("ok", "skipped", "FAILED")  # each is worse than those before it


@dataclass(frozen=True)
class Run:
    """A run: its file, the facts about it, and its items by law and subject.

    `twice` has the names that occur more than once, as in files that were merged.
    """

    file: Path
    facts: Mapping[str, str]
    items: Mapping[str, Item]
    twice: Sequence[str]

    @property
    def machine(self) -> str:
        """Architecture of the machine, or its devices if no fact names it."""
        found = re.search(r"x86_64|AMD64|aarch64|arm64", f"{self.facts}")
        return found[0].replace("_", "-") if found else self.facts.get("device", "its device")


@dataclass(frozen=True)
class Difference:
    """A law with one subject whose verdict, counterexample, exception or message differs."""

    claim: str
    test: str
    what: str
    before: str
    after: str
    worse: bool


@dataclass(frozen=True)
class Comparison:
    """The differences between run `a` and the later run `b`."""

    a: Run
    b: Run
    tests: int
    incomparable: Sequence[str]
    only: Mapping[str, Mapping[str, Sequence[str]]]
    differences: Sequence[Difference]
    worse: int
    same_laws: int
    laws: int


def read_run(file: Path) -> Run:
    """Read a results.xml or a record, without what differs from one run to the next."""
    suite = load(file)
    properties = suite.findall("./properties/property")
    facts = {p.get("name", ""): p.get("value", "") for p in properties}
    if not any(name.startswith("source:") for name in facts):
        facts |= sources()  # `verify` ran the claims that are here
    with explaining(f"{file} is not as verify wrote it: ", "; run verify again"):
        items = [read_item(clean_case(case)) for case in suite.iter("testcase")]
    # A failure that names no claim is a file that pytest could not import, or a lost process.
    items = [item for item in items if "claim" in item.record or item.outcome == "FAILED"]
    names = [name_of(item, facts.get("device", "cpu")) for item in items]
    twice = [name for name, times in Counter(names).items() if times > 1]
    found = {n: item for n, item in zip(names, items, strict=True) if n not in twice}
    return Run(file, facts, found, twice)


def name_of(item: Item, devices: str) -> str:
    """Name an item: the same law on another device has the same name, if a run used but one."""
    # A test whose process died does not say its device.
    device = item.record.get("device", devices.partition(" ")[0])
    short = item.parameters if "," in devices else item.parameters.removeprefix(f"{device}-")
    return f"{item.function.strip('.')}[{short}]"


def compare(a: Run, b: Run) -> Comparison:
    """Compare run `a` with the later run `b`; raise UserError if they share no law."""
    both = [name for name in a.items if name in b.items]
    if not any(a.items[name].kind == "right" for name in both):
        raise UserError(f"{a.file} and {b.file} have no law in common; run the same lessons")
    profiles = [run.facts.get("profile", "unknown") for run in (a, b)]
    digests = {name for name in a.facts if name.startswith("source:")}
    changed = {n[7:-3].replace("/", ".") for n in digests if a.facts[n] != b.facts.get(n)}
    incomparable = [f"{name} is there twice" for name in dict.fromkeys((*a.twice, *b.twice))]
    if len(set(profiles)) > 1:
        incomparable.append(f"the counterexamples of the profiles {' and '.join(profiles)}")
    if stale := sorted({claim_of(a.items[n]) for n in both if module_of(n) in changed}):
        incomparable.append(f"counterexamples of claims whose file changed: {', '.join(stale)}")
    differences = []
    for name in both:
        before, after = said(a.items[name]), said(b.items[name])
        if len(set(profiles)) > 1 or module_of(name) in changed:
            del before["counterexample"]
        for what, text in before.items():
            worse = what == "verdict" and WORSE.index(after[what]) > WORSE.index(text)
            if text != after[what]:
                claim, test = claim_of(a.items[name]), name.removeprefix(f"{module_of(name)}.")
                differences.append(Difference(claim, test, what, text, after[what], worse))
    order = list(dict.fromkeys(each.claim for each in differences))
    differences.sort(key=lambda each: order.index(each.claim))
    only = {"A": missing(a, b), "B": missing(b, a)}
    new = [item for name, item in b.items.items() if name not in a.items]
    worse_off = [each.worse for each in differences] + [item.outcome == "FAILED" for item in new]
    judged: dict[str, list[bool]] = {}
    for name, item in a.items.items():
        if item.kind in ("right", "wrong"):
            same = name in b.items and b.items[name].outcome == item.outcome
            judged.setdefault(item.function, []).append(same)
    agree, laws = sum(map(all, judged.values())), len(judged)
    return Comparison(a, b, len(both), incomparable, only, differences, sum(worse_off), agree, laws)


def missing(run: Run, other: Run) -> dict[str, list[str]]:
    """Return what the other run lacks: names of tests by claim."""
    found: dict[str, list[str]] = {}
    for name, item in run.items.items():
        if name not in other.items:
            found.setdefault(claim_of(item), []).append(f"{name}: {item.outcome}")
    return found


def module_of(name: str) -> str:
    return name.partition("[")[0].rpartition(".")[0]


def claim_of(item: Item) -> str:
    """Return the claim of an item, or its file if it names none."""
    return item.record.get("claim") or item.function.strip(".")


def said(item: Item) -> dict[str, str]:
    """Return what is compared of an item."""
    exception, colon, message = item.message.partition(":")
    known = bool(colon) and re.fullmatch(r"(\w+\.)*[A-Z]\w*", exception)
    return {
        "verdict": item.outcome,
        "exception": exception if known else "",
        "message": message.strip() if known else item.message,
        "counterexample": item.record.get("counterexample", ""),
    }
