"""`python -m dlconcepts claims`: the claims with their verdicts, or one claim whole."""

import argparse
import json
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches

from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import LESSONS, TESTS, Claim, ClaimError, all_claims

WIDTH = 100


def run(arguments: argparse.Namespace) -> int:
    """Print what was asked for and return 0."""
    if not TESTS.is_dir():
        raise UserError(
            f"there are no claims in {TESTS}, since an installed package does not hold them; clone "
            "the repository and run `pip install -e .` there"
        )
    try:
        claims = all_claims(lessons=[arguments.lesson] if arguments.lesson else LESSONS)
    except ClaimError as error:
        raise UserError(str(error)) from error
    if arguments.claim:
        claims = [claim for claim in claims if claim.id == arguments.claim]
        if not claims:
            raise UserError(unknown(arguments.claim))
    if arguments.json:
        print(json.dumps([as_object(claim) for claim in claims], indent=1, ensure_ascii=False))
    elif arguments.claim:
        print("\n".join(whole(claims[0])))
    else:
        for claim in claims:
            print(f"{claim.verdict:<9}  {claim.id:<46}  {claim.title}")
    return 0


def unknown(name: str) -> str:
    """Return an error that names the claims nearest to an unknown one."""
    known = [claim.id for claim in all_claims()]
    short = {claim.partition(".")[2]: claim for claim in known}
    near = get_close_matches(name, known, cutoff=0.5)
    near += [short[match] for match in get_close_matches(name, short) if short[match] not in near]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "`claims` lists them all"
    return f"there is no claim {name!r}; {hint}"


def as_object(claim: Claim) -> dict[str, object]:
    """Return a claim as plain values."""
    return {
        "id": claim.id,
        "lesson": claim.lesson,
        "title": claim.title,
        "demonstration": claim.demonstration,
        "notes": claim.notes,
        "verdict": claim.verdict,
        "truth": claim.truth,
        "laws": [
            {"name": law.name, "sentence": law.sentence, "right": law.right} for law in claim.laws
        ],
        "mistakes": [
            {"name": name, "sentence": claim.mistakes.get(name, ""), "law": law.name, "reason": why}
            for law in claim.laws
            for name, why in law.wrong.items()
        ],
        "file": claim.file,
    }


def whole(claim: Claim) -> Iterator[str]:
    """Yield the lines of one claim: head, laws, mistakes, and the command that runs it."""
    yield f"{claim.title}."
    yield from ("", textwrap.indent(claim.demonstration, "    "), "")
    for name in ("notes", "verdict", "truth"):
        if text := getattr(claim, name):
            yield from wrapped(f"{name.capitalize()}: {text}", "", "    ")
    for law in claim.laws:
        yield ""
        yield from wrapped(f"Law: {law.sentence}", "", "    ")
        for name, reason in law.wrong.items():
            sentence = claim.mistakes.get(name, "")
            text = f"rejects {name}: {sentence} Fails with {reason!r}."
            yield from wrapped(text, "  - ", "    ")
    yield ""
    yield f"python -m pytest {claim.file}"


def wrapped(text: str, first: str, later: str) -> list[str]:
    """Return a text as lines."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
