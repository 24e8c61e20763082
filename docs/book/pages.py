"""Write the pages of the book as reStructuredText, from the suite and the recorded results."""

import pkgutil
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # in Python 3.10, for which Sphinx installs tomli
    import tomli as tomllib

import jinja2
import rot

import dlconcepts
from book import changed, records
from book.docstrings import claimed, paragraphs, prose
from book.drawings import RECORDED, Drawing, draw
from book.notebooks import write_notebook
from book.suite import Chapter, Law, Subject, chapters
from book.tables import cell, tables
from dlconcepts.checks import REGISTRY
from dlconcepts.testing.claims import LESSONS, Claim

TEMPLATES = Path(__file__).parent / "templates"
REPORTS = Path(__file__).parents[1] / "reports.toml"
# Pages that span the lessons.
ACROSS = (
    *("claims", "corrected", "mistakes", "changed", "reports", "watch", "rot", "runs", "power"),
    "measured",
)
# The name of each record on the page "The power of the laws", and of its file.
POWER = {"faults": "faults", "mutants": "mutants", "kinds": "strategies"}
VERDICTS = {
    "holds": "holds",
    "holds-if": "holds if",
    "corrected": "corrected",
    "opinion": "opinion",
}


def heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}"


def badge(word: str) -> str:
    return f":{word.lower().replace(' ', '-')}:`{VERDICTS.get(word, word)}`"


def claim_label(claim: Claim) -> str:
    return f"claim-{claim.id}"


def law_links(laws: Iterable[Law]) -> Iterator[str]:
    yield from (".. rubric:: Laws", "")
    for law in laws:
        yield f"- :ref:`{prose(law.title)} <{law.label}>`"


def outcomes(claim: Claim) -> list[tuple[records.Environment, str, str, str]]:
    """Return a claim's result in each environment: outcome, examples, mistakes rejected."""
    laws = [law for chapter in chapters() for law in chapter.laws if law.claim.id == claim.id]
    rows = []
    for environment in records.environments():
        right = [environment.item(law, law.right) for law in laws]
        wrong = [environment.item(law, mistake) for law in laws for mistake in law.mistakes]
        found = [item.outcome if item else records.MISSING for item in (*right, *wrong)]
        # Mistakes run only on the first device of a run.
        elsewhere = any(right) and not any(wrong)
        if elsewhere:
            found = found[: len(right)]
        worst = next(
            (x for x in ("FAILED", "skipped", records.MISSING) if x in found),
            "ok" if found else "pending",
        )
        examples = sum(int(item.record.get("examples", 0)) for item in right if item)
        rejected = sum(bool(item) and item.outcome == "ok" for item in wrong)
        of = "on another device" if elsewhere else f"{rejected} of {len(wrong)}"
        rows.append((environment, worst, f"{examples:,}", of))
    return rows


def counterexample(law: Law, mistake: Subject) -> tuple[str, str] | None:
    """Return the recorded counterexample of a mistake, and its environment."""
    for environment in records.environments():
        item = environment.item(law, mistake)
        if item and item.record.get("counterexample"):
            return item.record["counterexample"], environment.title
    return None


def verdicts(law: Law, subject: Subject) -> list[str]:
    """Describe the result of a law with one subject in each environment."""
    lines = []
    for environment in records.environments():
        item = environment.item(law, subject)
        word = records.outcome_of(item)
        line = f"{environment.title}: {badge(word)}"
        if item and item.outcome == "skipped":
            line += f" {prose(item.message)}"
        elif item and item.is_mistake:
            passed = int(item.record.get("examples", 0))
            line += f"; {passed:,} of the generated examples passed" if passed else ""
        elif item:
            line += f" on {int(item.record.get('examples', 0)):,} examples"
            line += f" ({prose(item.record['reason'])})" if item.record.get("reason") else ""
        lines.append(line)
    return lines


def word(law: Law, subject: Subject) -> str:
    """Return the worst outcome of a law with one subject in all environments."""
    found = [records.outcome_of(e.item(law, subject)) for e in records.environments()]
    order = ("FAILED", "rejected", "ok", "skipped")
    return next((outcome for outcome in order if outcome in found), records.MISSING)


def claims() -> list[Claim]:
    return [claim for chapter in chapters() for claim in chapter.claims]


def counts() -> dict[str, str]:
    """Count the claims, laws, mistakes and verdicts."""
    laws = [law for chapter in chapters() for law in chapter.laws]
    mistakes = [(law, mistake) for law in laws for mistake in law.mistakes]
    return {
        "claims": f"{len(claims())}",
        "laws": f"{len(laws)}",
        "mistakes": f"{len(mistakes)}",
        **Counter(VERDICTS[claim.verdict] for claim in claims()),
    }


def modules() -> list[str]:
    found = pkgutil.walk_packages(dlconcepts.__path__, "dlconcepts.")
    names = [module.name for module in found]
    return [name for name in names if name != "dlconcepts.__main__"]


def pictures(name: str) -> list[Path]:
    return sorted((records.RESULTS / "runs").glob(f"{name}-*.png"))


def newest_first(rot: dict[str, Any]) -> dict[str, Any]:
    """Return the records of docs/rot.py by version of torch."""
    versions = {name.removeprefix("rot-"): record for name, record in rot.items()}
    newest = sorted(versions, key=records.version_key, reverse=True)
    return {version: versions[version] for version in newest}


def environment() -> jinja2.Environment:
    """Return the template environment with the filters and values that templates use."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters.update(
        prose=prose,
        linked=lambda text: prose(text.replace("`", "")),  # a link cannot contain code
        paragraphs=paragraphs,
        claimed=claimed,
        badge=badge,
        cell=cell,
        heading=heading,
        median=lambda values: statistics.median(list(values)),
    )
    found.globals.update(
        LESSONS=LESSONS,
        VERDICTS=VERDICTS,
        chapters=chapters(),
        claims=claims(),
        environments=records.environments(),
        RECORDED=RECORDED,
        changed=changed,
        claim_label=claim_label,
        counterexample=counterexample,
        counts=counts(),
        laws=[law for chapter in chapters() for law in chapter.laws],
        modules=modules(),
        outcomes=outcomes,
        pictures=pictures,
        tables=tables,
        verdicts=verdicts,
        word=word,
    )
    return found


def write_pages(out: Path) -> None:
    """Write all pages, drawings and notebooks into a folder."""
    templates = environment()
    for folder in ("api", "drawings", "lessons", "notebooks"):
        (out / folder).mkdir(parents=True)
    for chapter in chapters():
        write_notebook(chapter, out / "notebooks" / f"{chapter.name}.ipynb")
        write_chapter(chapter, templates, out)
    (out / "api.rst").write_text(templates.get_template("api.rst").render(), encoding="utf-8")
    for module in modules():
        page = templates.get_template("module.rst").render(module=module)
        (out / "api" / f"{module}.rst").write_text(page, encoding="utf-8")
    power = records.recorded("power-*.json")
    shared = {
        "rot": newest_first(records.recorded("rot-*.json")),
        "runs": records.recorded("runs/*.json"),
        "benchmarks": records.recorded("benchmarks/*.json"),
        **{name: power.get(f"power-{file}") for name, file in POWER.items()},
        "others": {
            name: value
            for name, value in records.recorded("*.json").items()
            if not name.startswith(("rot-", "power", "watch"))
        },
        "watched": records.recorded("watch.json").get("watch"),
        "reported": tomllib.loads(REPORTS.read_text(encoding="utf-8")),
        "checks": REGISTRY,
        "calls": rot.CALLS,
    }
    for name in ("start", *ACROSS):
        page = templates.get_template(f"{name}.rst").render(shared)
        (out / f"{name}.rst").write_text(page, encoding="utf-8")


def write_chapter(chapter: Chapter, templates: jinja2.Environment, out: Path) -> None:
    drawings: dict[str, list[Drawing]] = {}
    for law in chapter.laws:
        for number, drawing in enumerate(draw(chapter, law)):
            drawing.save(out / "drawings" / f"{law.label}-{number}.png")
            drawings.setdefault(law.label, []).append(drawing)
    page = templates.get_template("chapter.rst").render(chapter=chapter, drawings=drawings)
    (out / "lessons" / f"{chapter.name}.rst").write_text(page, encoding="utf-8")
