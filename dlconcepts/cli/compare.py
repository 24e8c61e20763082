"""`python -m dlconcepts compare`: show what differs between two runs of the laws."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from difflib import unified_diff
from itertools import groupby

from dlconcepts.support.errors import UserError
from dlconcepts.testing.compare import Comparison, Run, compare, read_run
from dlconcepts.testing.records import find, find_version

FACTS = ("torch", "torchvision", "numpy", "hypothesis", "python", "profile", "device", "platform")
FEW = 9  # claims to name; --json has all


def run(arguments: argparse.Namespace) -> int:
    """Compare two runs; return 1 if a verdict worsened, else 0."""
    a = read_run(find(arguments.a))
    a, b = (a, read_run(find(arguments.b))) if arguments.b else (same_version(a), a)
    found = compare(a, b)
    version = a.facts.get("torch", "").partition("+")[0] or "A"
    agreement = (
        f"{'B' if arguments.b else 'your machine'} agrees with {found.same_laws} of {found.laws} "
        f"laws recorded for {version} on {a.machine}"
    )
    if arguments.json:
        facts = [{name: run.facts.get(name) for name in FACTS} for run in (a, b)]
        record = {key: value for key, value in vars(found).items() if key not in "ab"}
        record |= {"a": facts[0], "b": facts[1], "agreement": agreement}
        record["differences"] = [asdict(each) for each in found.differences]
        print(json.dumps(record, indent=1))
    else:
        print("\n".join(show(found, arguments.markdown)))
        print(f"**{agreement}**" if arguments.markdown else agreement)
    return 1 if found.worse else 0


def same_version(here: Run) -> Run:
    """Return the recorded run with the torch version and device of this run."""
    version = here.facts.get("torch", "").partition("+")[0]
    if not version:
        raise UserError(f"{here.file} does not name its version of torch; name a second run")
    devices = here.facts.get("device", "cpu").split(", ")
    return read_run(find_version(version, "-".join(each.partition(" ")[0] for each in devices)))


def show(found: Comparison, markdown: bool) -> Iterator[str]:
    """Yield the comparison as lines of text, or of Markdown."""
    bullet, heading, fence = ("- ", "\n### ", ["````"]) if markdown else ("", "\n", [])
    for name, run in (("A", found.a), ("B", found.b)):
        facts = ", ".join(f"{fact} {run.facts[fact]}" for fact in FACTS if fact in run.facts)
        yield f"{bullet}{name}: {run.file} ({facts or 'versions unknown'})"
    for side, claims in found.only.items():
        tests = [test for names in claims.values() for test in names]
        if tests:
            more = f" and {len(claims) - FEW} more" if len(claims) > FEW else ""
            names = ", ".join([*claims][:FEW]) + more
            yield f"{bullet}only in {side}: {len(tests)} tests of {len(claims)} claims: {names}"
            yield from (f"{bullet}only in {side}: {t}" for t in tests if t.endswith("FAILED"))
    yield from (f"{bullet}cannot be compared: {reason}" for reason in found.incomparable)
    versions = [run.facts.get("hypothesis", "unknown") for run in (found.a, found.b)]
    if len(set(versions)) > 1:
        yield f"{bullet}Hypothesis {' and '.join(versions)} may find other counterexamples"
    for claim, differences in groupby(found.differences, lambda each: each.claim):
        yield f"{heading}{claim}"
        for each in differences:
            yield f"{bullet}{each.test}: {each.what}{' (worse)' if each.worse else ''}"
            texts = each.before.splitlines(), each.after.splitlines()
            lines = list(unified_diff(*texts, n=2, lineterm=""))[2:]
            yield from (f"    {line}" for line in (*fence, *lines, *fence))
    what = [each.what for each in found.differences]
    counts = ", ".join(f"{what.count(name)} {name}" for name in dict.fromkeys(what))
    yield f"\n{found.tests} tests in both; differences: {counts or 'none'}; worse: {found.worse}\n"
