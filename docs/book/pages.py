"""Write the pages of the book as reStructuredText, from the suite and the recorded results."""

import ast
import pkgutil
import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
from book.pictures import pictures_of
from book.suite import Chapter, Law, Section, Subject, chapters
from book.tables import cell, tables
from dlconcepts.checks import REGISTRY
from dlconcepts.practice.failures import smallest_input
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
# What one notices of a mistake, and the words that name it in a mistake or in what its law says.
SYMPTOMS = {
    "loss": "the loss does not fall",
    "accuracy": "the accuracy is wrong",
    "runs": "results differ between runs",
    "memory": "memory grows, or is shared by surprise",
    "gradient": "gradients are wrong or missing",
    "weights": "weights move, or do not learn",
    "shape": "the shape or the order is wrong",
    "dtype": "the dtype or the scale is wrong",
    "file": "a checkpoint is lost or wrong",
    "mode": "evaluation differs from training",
    "error": "no error where one is due",
    "nan": "NaN or infinity appears",
}
SYMPTOM_WORDS = {
    "loss": r"\bloss|learning rate|converge|\bstep\b",
    "accuracy": r"accura|predict|correct|label|classes",
    "runs": r"seed|random|same run|generator|shuffl|drawn anew",
    "memory": r"memory|\bgraph|shares|alias|copies|copy|keeps no graph",
    "gradient": r"grad|backward|detach",
    "weights": r"weight|parameter|froz|freez|optimi[sz]er|learn",
    "shape": r"shape|dimension|\brow|column|order|flatten|transpos|axis|channel",
    "dtype": r"dtype|float|byte|integer|scale|normali|cast|precision|round",
    "file": r"checkpoint|\bfile|\bload|save|state_dict|resume",
    "mode": r"eval|train(?:ing)? mode|dropout|batch ?norm|buffers?\b",
    "error": r"did not raise|raises|refus|silent|error",
    "nan": r"\bnan|infinit|finite|overflow|underflow",
}
# The results that a claim can have in an environment.
RESULTS = ("ok", "skipped", records.MISSING, "FAILED")


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
    """Return the recorded input of a mistake, without the law's name, and its environment."""
    for environment in records.environments():
        item = environment.item(law, mistake)
        if item and item.record.get("counterexample"):
            (subject,) = re.findall(r"def \w+\(\s*(\w+)", law.code)[:1]
            text = smallest_input([item.record["counterexample"]], subject).strip()
            return (text, environment.title) if text else None
    return None


def failed_because(mistake: Subject) -> str:
    """Return in words why the law rejects a mistake.

    >>> failed_because(Subject("leaks", None, "DID NOT RAISE", "", ""))
    'The law expects an error; none is raised.'
    """
    if mistake.reason == "DID NOT RAISE":  # what pytest.raises says
        return "The law expects an error; none is raised."
    return f"The law fails with the words \u201c{mistake.reason}\u201d."


def changed_lines(right: str, wrong: str) -> str:
    r"""Return the numbers of the lines of some code that its right form does not have.

    >>> changed_lines("a = 1\nb = 2", "a = 1\nb = 3\nc = 4")
    '2,3'
    """
    known = {nameless(line) for line in right.splitlines()}
    lines = enumerate(map(nameless, wrong.splitlines()), 1)
    return ",".join(str(n) for n, line in lines if line and line not in known)


def nameless(line: str) -> str:
    """Return a line without its indent and the name that it defines."""
    return re.sub(r"^(def|class) \w+", r"\1", line.strip())


def without_docstring(code: str) -> str:
    r"""Return the code of a function or class without its docstring.

    >>> without_docstring("def f(x):\n    'Add one.'\n    return x + 1")
    'def f(x):\n    return x + 1'
    """
    code = textwrap.dedent(code)
    node, lines = ast.parse(code).body[0], code.splitlines()
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        said, *rest = node.body
        del lines[said.lineno - 1 : said.end_lineno if rest else 0]
    return "\n".join(lines).replace(":\n\n", ":\n", 1)


def instructive(
    section: Section, drawings: Mapping[str, list[Drawing]]
) -> tuple[Law, Subject] | None:
    """Return the mistake to show in full: drawn, with a short input that is not all zeros."""

    def rank(pair: tuple[Law, Subject]) -> tuple[Any, ...]:
        law, mistake = pair
        drawn = any(each.subject == mistake.name for each in drawings.get(law.label, ()))
        found = counterexample(law, mistake)
        text = found[0] if found else ""
        lines = mistake.code.count("\n") + law.right.code.count("\n")
        taught = not drawn, not text, len(text) > 300, not re.search(r"[2-9]", text)
        return *taught, section.laws.index(law), lines  # the first law is what the title says

    pairs = [(law, wrong) for law in section.laws for wrong in law.mistakes if wrong.code]
    return min(pairs, key=rank, default=None)


def symptoms(mistake: Subject) -> list[str]:
    """Return what one would notice of a mistake, by the words that describe it."""
    text = f"{mistake.name.replace('_', ' ')} {mistake.sentence} {mistake.reason}".lower()
    return [name for name, words in SYMPTOM_WORDS.items() if re.search(words, text)]


def result_classes(found: list[tuple[records.Environment, str, str, str]]) -> str:
    """Return classes that say where a claim has which result, for the filter of the claims."""
    words = [worst.replace(" ", "-").lower() for _, worst, _, _ in found]
    there = [f"result-{n}-{word}" for n, word in enumerate(words)]
    run = [f"result-{n}-run" for n, word in enumerate(words) if word != "not-run-yet"]
    return " ".join([*there, *run, *sorted({f"result-any-{word}" for word in words})])


def differing(of: Iterable[Claim]) -> str:
    """Say in a sentence how many claims have another result with another version on the CPU."""
    names = []
    for claim in of:
        found = [worst for where, worst, _, _ in outcomes(claim) if where.device == "cpu"]
        if len({word for word in found if word in ("ok", "FAILED")}) > 1:
            names.append(claim.id)
    if not names:
        return "No claim holds with one recorded version of torch and fails with another."
    verb = "have" if names[1:] else "has"
    return f"With another version of torch, {', '.join(names)} {verb} another result."


def first_sentence(text: str) -> str:
    """Return the first sentence of a text.

    >>> first_sentence("Call nn.Module once. Then rest.")
    'Call nn.Module once.'
    """
    return re.split(r"(?<=[.!?]) (?=[A-Z`])", " ".join(text.split()), maxsplit=1)[0]


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
        first_sentence=first_sentence,
        without_docstring=without_docstring,
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
        RESULTS=RESULTS,
        SYMPTOMS=SYMPTOMS,
        pictures_of=pictures_of(),
        changed_lines=changed_lines,
        differing=differing,
        failed_because=failed_because,
        instructive=instructive,
        result_classes=result_classes,
        symptoms=symptoms,
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
    for folder in ("api", "claims", "drawings", "lessons", "notebooks"):
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
    """Write the overview of a lesson, a page for each claim, and their pictures."""
    drawings: dict[str, list[Drawing]] = {}
    for law in chapter.laws:
        for number, drawing in enumerate(draw(chapter, law)):
            drawing.save(out / "drawings" / f"{law.label}-{number}.svg")
            drawings.setdefault(law.label, []).append(drawing)
    given = {"chapter": chapter, "drawings": drawings}
    page = templates.get_template("chapter.rst").render(given)
    (out / "lessons" / f"{chapter.name}.rst").write_text(page, encoding="utf-8")
    for section in chapter.sections:
        name = section.claim.id
        for number, picture in enumerate(pictures_of()[name]):
            (out / "drawings" / f"{name}-{number}.svg").write_text(picture.svg, encoding="utf-8")
        page = templates.get_template("claim.rst").render(given, section=section)
        (out / "claims" / f"{name}.rst").write_text(page, encoding="utf-8")
