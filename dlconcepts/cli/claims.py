"""`python -m dlconcepts claims`: the claims with their verdicts, or one claim whole."""

import argparse
import json
import textwrap
from collections.abc import Iterator, Sequence

from dlconcepts.support.errors import UserError, nearest
from dlconcepts.testing.claims import LESSONS, TESTS, Claim, all_claims

WRAPPER = textwrap.TextWrapper(width=100, subsequent_indent="    ", break_long_words=False)
WRAPPER.break_on_hyphens = False  # names such as `a-b` stay whole


def run(arguments: argparse.Namespace) -> int:
    """Print the list of claims, or one claim whole, and return 0."""
    claims = all_claims(TESTS, [arguments.lesson] if arguments.lesson else LESSONS)
    if not claims:
        # Imported here, since it takes longer than reading the claims.
        from dlconcepts.testing.run import require_tests

        require_tests()
    if arguments.claim:
        found = [claim for claim in claims if claim.id == arguments.claim]
        if not found:
            raise UserError(unknown(arguments.claim, claims))
        claims = found
    if arguments.json:
        print(json.dumps([as_object(claim) for claim in claims], indent=1, ensure_ascii=False))
    elif arguments.claim:
        print("\n".join(whole(claims[0])))
    else:
        for claim in claims:
            print(f"{claim.verdict:<9}  {claim.id:<46}  {claim.title}")
    return 0


def unknown(name: str, claims: Sequence[Claim]) -> str:
    """Return an error that names the claims closest to an unknown one."""
    short = {claim.id.partition(".")[2]: claim.id for claim in claims}
    if name in short:
        return f"there is no claim {name!r}; did you mean {short[name]}?"
    near = nearest(name, [claim.id for claim in claims], "`claims` lists them all")
    return f"there is no claim {name!r}{near}"


def as_object(claim: Claim) -> dict[str, object]:
    names = ("id", "lesson", "title", "demonstration", "notes", "verdict", "truth", "file")
    laws, mistakes = [], []
    for law in claim.laws:
        laws.append({"name": law.name, "sentence": law.sentence, "right": law.right})
        for name, why in law.wrong.items():
            about = {"name": name, "sentence": claim.mistakes.get(name, "")}
            mistakes.append({**about, "law": law.name, "reason": why})
    return {**{n: getattr(claim, n) for n in names}, "laws": laws, "mistakes": mistakes}


def whole(claim: Claim) -> Iterator[str]:
    """Yield the lines of a claim: head, laws, mistakes, and the command that runs it."""
    yield f"{claim.title}.\n"
    yield textwrap.indent(claim.demonstration, "    ") + "\n"
    for name in ("notes", "verdict", "truth"):
        if text := getattr(claim, name):
            yield WRAPPER.fill(f"{name.capitalize()}: {text}")
    for law in claim.laws:
        yield "\n" + WRAPPER.fill(f"Law: {law.sentence}")
        for name, reason in law.wrong.items():
            sentence = claim.mistakes.get(name, "")
            yield WRAPPER.fill(f"  - rejects {name}: {sentence} Fails with {reason!r}.")
    yield f"\npython -m pytest {claim.file}"
