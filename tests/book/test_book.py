"""The built book: complete, true to the records, and usable by everyone.

It is built once, then read as files and in headless Chromium. Tests that need the `docs` extra or
Chromium are skipped without them.
"""

import base64
import doctest
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from filelock import FileLock
from PIL import Image

from dlconcepts.testing.claims import all_claims

sphinx = pytest.importorskip("sphinx", reason="the book needs `pip install -e .[docs]`")
pytest.importorskip("furo", reason="the book needs `pip install -e .[docs]`")
nbformat = pytest.importorskip("nbformat", reason="the book needs `pip install -e .[docs]`")

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs apt-get install chromium")
WIDTHS = {"desktop": 1280, "phone": 390}
# A lesson has hundreds of folds: only the first dozen are opened and checked.
UNFOLD = """() => {
  [...document.querySelectorAll('details')].slice(0, 12).forEach(d => { d.open = true })
  document.querySelectorAll('details:not([open]) > :not(summary)').forEach(e => e.remove())
}"""
# Contrast depends on the style of a text and on what is painted behind it. axe takes milliseconds
# for each text, and a lesson has thousands in a few dozen styles: mark three texts of each, since
# axe cannot judge one that something covers. It skips single characters.
SAMPLE = """() => {
  const marked = {}
  for (const text of document.body.querySelectorAll('*')) {
    const words = [...text.childNodes].filter(node => node.nodeType === Node.TEXT_NODE)
    if (words.map(node => node.data).join('').trim().length < 2) continue
    if (!text.checkVisibility({ visibilityProperty: true })) continue
    const { color, fontSize, fontWeight } = getComputedStyle(text)
    let style = [color, fontSize, fontWeight].join()
    for (let behind = text; behind; behind = behind.parentElement) {
      const { backgroundColor, backgroundImage, opacity } = getComputedStyle(behind)
      const paint = [backgroundColor, backgroundImage, opacity].join()
      if (paint !== 'rgba(0, 0, 0, 0),none,1') style += paint
    }
    marked[style] = (marked[style] ?? 0) + 1
    if (marked[style] <= 3) text.dataset.sample = ''
  }
}"""
SAMPLED = {"include": [["[data-sample]"]]}
CONTRAST = {"resultTypes": ["violations"], "runOnly": ["color-contrast"]}
OTHERS = {"resultTypes": ["violations"], "rules": {"color-contrast": {"enabled": False}}}
KINDS = (
    *("index", "search", "genindex", "generated/measured"),
    *(
        f"generated/{name}"
        for name in (
            "claims",
            "corrected",
            "mistakes",
            "changed",
            "reports",
            "rot",
            "runs",
            "power",
        )
    ),
    *("generated/lessons/autograd", "generated/api/dlconcepts.autograd"),
    "generated/claims/autograd.gradients-accumulate",
    "generated/claims/transfer.frozen-parameters-stay-fixed",
    "generated/claims/tensors.view-is-a-new-tensor",
    "_modules/dlconcepts/autograd",
)


def build(out: Path) -> None:
    """Build the book from a copy of its sources, with warnings as errors."""
    for folder in ("docs", "tests", "dlconcepts"):
        ignored = shutil.ignore_patterns("__pycache__", "generated")
        shutil.copytree(ROOT / folder, out / folder, ignore=ignored)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(out), "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [*command, "docs", "build"], cwd=out, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the book once for all test processes, or use the one in $DLCONCEPTS_BOOK."""
    if "DLCONCEPTS_BOOK" in os.environ:
        return ROOT / os.environ["DLCONCEPTS_BOOK"]
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    out = folder / "book"
    with FileLock(folder / "book.lock"):
        if not (out / "build" / "index.html").is_file():
            build(out)
    return out / "build"


class Page(HTMLParser):
    """The links, anchors, text, images and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(str(found["id"]))
        if tag == "a" and found.get("href"):
            self.links.append(str(found["href"]))
        if tag in ("img", "script") and found.get("src"):
            self.loads.append(str(found["src"]))
        if tag == "link" and "stylesheet" in str(found.get("rel")):
            self.loads.append(str(found["href"]))
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="session")
def pages(book: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(book.rglob("*.html"))}


# ------------------------------------------------------------------------ the pages as files


def test_every_link_has_a_target(book: Path, pages: dict[Path, Page]) -> None:
    """Every link, picture and anchor on every page exists."""
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.is_file() or (
                anchor and target.suffix == ".html" and anchor not in pages[target].ids
            ):
                broken.append(f"{path.relative_to(book)}: {link}")

    assert not broken, "every link and anchor is there"


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    """No page loads scripts, styles or pictures from another host."""
    elsewhere = [load for page in pages.values() for load in page.loads if urlsplit(load).netloc]

    assert not elsewhere, "no page loads anything from another host"


def test_every_picture_says_what_it_shows(pages: dict[Path, Page]) -> None:
    """Every picture has an alternative text."""
    silent = [image for page in pages.values() for image in page.images if not image.get("alt")]

    assert not silent, "every picture has an alternative text"


def test_every_claim_is_in_the_index(book: Path, pages: dict[Path, Page]) -> None:
    """The index lists every claim, including opinions."""
    index = pages[book / "generated" / "claims.html"].text

    for claim in all_claims():
        assert claim.id in index, f"{claim.id} is in the index of claims"


def test_every_kind_of_report_is_shown(book: Path, pages: dict[Path, Page]) -> None:
    """The page "What people get wrong" has each kind, its law and a link to each report."""
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    text = (ROOT / "docs" / "reports.toml").read_text(encoding="utf-8")
    page = pages[book / "generated" / "reports.html"]

    for kind in tomllib.loads(text)["kind"]:
        assert f"kind-{kind['id']}" in page.ids
        for words in (kind["title"], kind["law"]):
            assert words.replace("`", "") in page.text
        for report in kind["reports"]:
            assert f"https://github.com/{report.replace('#', '/issues/')}" in page.links


def test_every_claim_has_a_page_with_its_demonstration(book: Path, pages: dict[Path, Page]) -> None:
    """It shows the demonstration at once, has at most 140 KB, and its lesson links to it."""
    for claim in all_claims():
        path = book / "generated" / "claims" / f"{claim.id}.html"
        shown = pages[path].text.partition("The notes say")[0]
        assert claim.demonstration.splitlines()[0] in shown, f"{claim.id} begins with its lines"
        lesson = pages[book / "generated" / "lessons" / f"{claim.lesson}.html"]
        assert any(f"{claim.id}.html" in link for link in lesson.links)
    claims = (book / "generated" / "claims").iterdir()
    large = {path.name: path.stat().st_size for path in claims if path.stat().st_size > 140_000}

    assert not large, "a page of a claim has at most 140 KB"


def test_a_counterexample_is_the_recorded_one(pages: dict[Path, Page]) -> None:
    """Each counterexample of a claim is in a record, word for word."""
    recorded = {
        " ".join(found.get("value", "").split())
        for file in RESULTS.glob("torch-*.xml")
        for found in ET.parse(file).iter("property")
        if found.get("name") == "counterexample"
    }
    shown = 0
    for path, page in pages.items():
        if path.parent.name != "claims":
            continue
        for block in re.findall(
            r"Smallest counterexample, found with torch \S+ (?:cpu|cuda)(.*(?:\n.+)*)", page.text
        ):
            shown += 1
            # The law's name and Hypothesis's own words between these lines are left out.
            words = [" ".join(line.split()) for line in block.splitlines()]
            assert any(all(line in value for line in words) for value in recorded), block

    assert shown > 100, "the claims show counterexamples"


def test_what_happened_is_told_in_words(pages: dict[Path, Page]) -> None:
    """No page of a claim shows the inside of Hypothesis or pytest, or an address, as a failure."""
    inside = r"data=data\(|DID NOT RAISE|Failing test case|Falsifying example| at 0x[0-9a-f]+"
    told = [
        text
        for path, page in pages.items()
        if path.parent.name == "claims"
        for text in re.findall(
            r"What happened((?:.|\n)*?Smallest counterexample.*(?:\n[ \w].*)*)", page.text
        )
    ]

    assert len(told) > 700
    assert [text for text in told if re.search(inside, text)] == []


def test_every_lesson_has_three_pictures(modules: Callable[[str], Any]) -> None:
    """45 pictures in all; none is of one colour, and each is the same when it is drawn again."""
    pictures = modules("book.pictures")
    drawn = pictures.pictures_of()
    pictures.pictures_of.cache_clear()
    again = pictures.pictures_of()

    lessons = [claim.partition(".")[0] for claim, found in drawn.items() for _ in found]
    assert len(lessons) >= 45
    assert {claim.lesson for claim in all_claims() if lessons.count(claim.lesson) < 3} == set()
    assert again == drawn
    for picture in [each for found in drawn.values() for each in found]:
        ET.fromstring(picture.svg)
        images = re.findall(r"data:image/png;base64,\s*([^\"]+)", picture.svg)
        painted = set(re.findall(r"#[0-9a-f]{6}", picture.svg)) - {"#ffffff"}
        for image in images:
            pixels = Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB")
            assert len(pixels.getcolors(pixels.width * pixels.height)) > 1, picture.alt
        assert images or len(painted) > 1, picture.alt
        assert picture.alt
        assert picture.caption


def test_each_corrected_claim_is_a_slide(modules: Callable[[str], Any]) -> None:
    """The slides are one file that loads nothing, with the picture of each claim in it."""
    page = modules("slides").html()

    for claim in all_claims():
        assert (f'<section id="{claim.id}">' in page) == (claim.verdict == "corrected")
    assert page.count("<svg") >= 5
    assert not re.search(r"(?:src|href)=\"(?!#)", page)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import the book's own modules, which are on no path; forget them afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / "docs")
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("book", "record", "rot", "slides"):
            del sys.modules[name]


def test_a_law_without_a_record_is_shown_as_not_run_yet(
    modules: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a record, a law is "not run yet" and its mistake has no counterexample."""
    monkeypatch.setattr(modules("book.records"), "RESULTS", tmp_path)
    pages, law = modules("book.pages"), modules("book.suite").chapters()[0].laws[0]

    assert pages.word(law, law.right) == "not run yet"
    assert pages.counterexample(law, law.mistakes[0]) is None


def test_a_fault_that_no_law_catches_is_listed(modules: Callable[[str], Any]) -> None:
    """It is counted and listed as not caught. Without a record, the page says so."""
    missed = {"lesson": "tensors", "sentence": "It is off.", "breaks": ["torch.sin"]}
    record = {"faults": 1, "noticed": 0, "by_a_crash": 0, "seconds": 1, "rows": [missed]}
    record |= {"command": "python power.py", "date": "today", "versions": {"torch": "2"}}
    page = modules("book.pages").environment().get_template("power.rst")

    found, empty = (page.render(faults=each, mutants=None, kinds=None) for each in (record, None))

    assert "They caught 0 of 1 faults" in found
    assert "Broken: ``torch.sin``. Not caught." in found
    assert "Nothing is recorded yet." in empty
    assert "Nothing is recorded yet." not in found


def test_a_verdict_that_changed_is_on_its_page(
    modules: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A law that failed with one version and holds with the next is shown with both outcomes."""
    names = ("torchvision", "numpy", "python", "hypothesis", "profile")
    for torch, failure in (("2.9.1", '<failure message="ValueError: no"/>'), ("2.10.0", "")):
        facts = {**dict.fromkeys(names, "1"), "torch": torch, "device": "cpu (a)"}
        said = {"claim": "networks.relu", "kind": "right", "device": "cpu", "subject": "relu"}
        written = [
            "".join(f'<property name="{name}" value="{value}"/>' for name, value in part.items())
            for part in (facts, said)
        ]
        case = '<testcase classname="tests.networks.test_relu" name="test_x[cpu-relu]">'
        text = f"{case}<properties>{written[1]}</properties>{failure}</testcase>"
        text = f"<testsuite><properties>{written[0]}</properties>{text}</testsuite>"
        (tmp_path / f"torch-{torch}-cpu.xml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(modules("book.records"), "RESULTS", tmp_path)

    page = modules("book.pages").environment().get_template("changed.rst").render()

    assert "From torch 2.9.1 to 2.10.0\n---" in page
    assert "``test_x[relu]``: verdict, exception, message" in page
    assert "   -FAILED\n   -ValueError\n   -no\n   +ok\n" in page
    assert "- torch 2.9.1: laws: 1 FAILED; mistakes: none (" in page


def test_records_do_not_reveal_the_machine() -> None:
    """Records contain no host names, absolute paths or memory addresses."""
    files = [path for path in RESULTS.rglob("*") if path.suffix in (".json", ".xml")]
    absolute = r"(?<![\w./:<])/\w[\w.-]*/\w"  # a path with at least two folders

    assert files, "something is recorded"
    for file in files:
        text = file.read_text(encoding="utf-8")
        for leak in (r"hostname", absolute, r"\bat 0x", r"site-packages"):
            assert not re.search(leak, text), f"{file.name} holds {leak}"


def test_every_drawing_belongs_to_a_law() -> None:
    """Every law that a drawing names exists."""
    drawings = (ROOT / "docs" / "book" / "drawings.py").read_text(encoding="utf-8")
    laws = {law.name for claim in all_claims() for law in claim.laws}
    names = re.findall(r'^    "(test_\w+)": ', drawings, flags=re.MULTILINE)

    assert names
    assert [name for name in names if name not in laws] == []


def test_the_doctests_of_the_book_s_modules_pass(modules: Callable[[str], Any]) -> None:
    """The book's modules are outside the folders that pytest collects by default."""
    files = sorted((ROOT / "docs" / "book").glob("*.py"))
    names = [f"book.{path.stem}" for path in files if path.stem != "notebook_setup"]  # a cell

    results = [doctest.testmod(modules(name)) for name in (*names, "plots", "record", "rot")]

    assert sum(result.attempted for result in results) > 0
    assert [result for result in results if result.failed] == []


def test_every_lesson_is_a_notebook(book: Path) -> None:
    """Each lesson is also a notebook, with a cell that runs each law."""
    notebooks = sorted((book / "_downloads").rglob("*.ipynb"), key=lambda path: path.stem)
    lessons = sorted((book / "generated" / "lessons").glob("*.html"))
    assert [path.stem for path in notebooks] == [path.stem for path in lessons]

    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        laws = sum(cell.source.startswith("run_law(") for cell in notebook.cells)
        assert laws == sum(len(claim.laws) for claim in all_claims(lessons=[path.stem]))


def test_a_notebook_runs(book: Path, tmp_path: Path) -> None:
    """The notebook of the first lesson runs from the first cell to the last."""
    nbclient = pytest.importorskip("nbclient", reason="needs `pip install -e .[docs]`")
    pytest.importorskip("ipykernel", reason="needs `pip install -e .[docs]`")
    (path,) = (book / "_downloads").rglob("tensors.ipynb")
    notebook = nbformat.read(path, as_version=4)

    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()

    printed = [
        out.text for cell in notebook.cells for out in cell.get("outputs", ()) if "text" in out
    ]
    laws = sum(cell.source.startswith("run_law(") for cell in notebook.cells)
    assert sum("holds on" in text for text in printed) == laws
    assert any(": rejected: " in text for text in printed)


# ------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the browser tests need `pip install -e .[docs]`"
    )
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """Open a tab, and fail on an error in the console or a request to a host."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("file:", "data:", "blob:"))
            else complaints.append(request.url)
        ),
    )
    yield page
    page.close()
    assert not complaints, "no error and no request to a host"


@needs_chromium
def test_search_finds_a_claim(book: Path, tab: Any) -> None:
    """The full-text search works on local files and finds the page of the claim."""
    tab.goto(f"{(book / 'search.html').as_uri()}?q=micro-batches-add-up-to-a-batch")
    tab.wait_for_selector("#search-results ul.search li a")

    links = tab.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")

    assert any("micro-batches-add-up-to-a-batch.html" in link for link in links)


@needs_chromium
def test_the_filter_shows_only_what_was_chosen(book: Path, tab: Any) -> None:
    """Lesson, verdict and text narrow the index, and the form shows the number of claims."""
    tab.goto((book / "generated" / "claims.html").as_uri())
    everything = tab.locator(".entry:visible").count()

    tab.select_option("select[name=verdict]", "corrected")
    tab.select_option("select[name=lesson]", "tensors")

    rows = tab.locator(".entry:visible")
    assert 0 < rows.count() < everything
    assert all(
        text.startswith("corrected") and "tensors." in text for text in rows.all_inner_texts()
    )
    assert tab.locator("form output").inner_text() == f"{rows.count()} of {everything} claims"
    assert tab.locator("h2:visible").count() == 1, "a lesson without a shown claim is hidden"
    tab.fill("input[name=text]", "resize")
    assert all("resize" in text for text in tab.locator(".entry:visible").all_inner_texts())
    assert tab.locator(".entry:visible").count() > 0
    tab.fill("input[name=text]", "no claim says this")
    assert tab.locator(".entry:visible").count() == 0


@needs_chromium
def test_the_filter_works_by_keyboard(book: Path, tab: Any) -> None:
    """Tab moves between the fields, and typing selects."""
    tab.goto((book / "generated" / "claims.html").as_uri())
    tab.focus("input[name=text]")
    tab.keyboard.type("zigzag")
    assert tab.locator(".entry:visible").count() < 5
    tab.fill("input[name=text]", "")

    tab.keyboard.press("Tab")
    tab.keyboard.type("aut")

    assert tab.locator("select[name=lesson]").input_value() == "autograd"


@needs_chromium
def test_without_scripts_everything_is_shown(book: Path, browser: Any) -> None:
    """The filter is hidden, and all claims are visible."""
    page = browser.new_page(java_script_enabled=False)
    page.goto((book / "generated" / "claims.html").as_uri())

    assert not page.locator("form.filter").is_visible()
    assert page.locator(".entry:visible").count() == len(all_claims())
    page.close()


@needs_chromium
def test_the_address_holds_the_filter(book: Path, tab: Any) -> None:
    """A reload keeps what was chosen, and Back takes it back."""
    tab.goto((book / "generated" / "claims.html").as_uri())
    tab.select_option("select[name=environment]", "0")
    tab.select_option("select[name=lesson]", "images")
    chosen = tab.locator(".entry:visible").count()

    tab.reload()

    assert tab.locator("select[name=environment]").input_value() == "0"
    assert tab.locator(".entry:visible").count() == chosen > 0
    tab.go_back()
    assert tab.locator("select[name=lesson]").input_value() == ""
    assert tab.locator(".entry:visible").count() > chosen


@needs_chromium
def test_a_mistake_is_found_by_its_symptom(book: Path, tab: Any) -> None:
    """Symptom and text narrow the mistakes."""
    tab.goto((book / "generated" / "mistakes.html").as_uri())
    everything = tab.locator(".entry:visible").count()

    tab.select_option("select[name=symptom]", "runs")
    tab.fill("input[name=text]", "seed")

    assert 0 < tab.locator(".entry:visible").count() < everything


@needs_chromium
def test_a_counterexample_opens(book: Path, tab: Any) -> None:
    """A folded mistake opens by keyboard and shows its counterexample; so do all at once."""
    page = "autograd.backward-computes-gradients.html"
    tab.goto((book / "generated" / "claims" / page).as_uri())
    fold = tab.locator("details.mistake").first
    shown = fold.get_by_text("Smallest counterexample")
    assert not shown.is_visible()

    fold.locator("summary").focus()
    tab.keyboard.press("Enter")

    assert shown.is_visible()
    tab.locator("button.unfold").click()
    assert tab.locator("article details:not([open])").count() == 0


@needs_chromium
def test_print_shows_what_is_folded(book: Path, browser: Any) -> None:
    """Without a script too, the printed page has every mistake unfolded."""
    page = browser.new_page(java_script_enabled=False)
    name = "autograd.backward-computes-gradients.html"
    page.goto((book / "generated" / "claims" / name).as_uri())
    shown = page.locator("details.mistake").first.get_by_text("Smallest counterexample")
    assert not shown.is_visible()

    page.emulate_media(media="print")

    assert shown.is_visible()
    page.close()


@needs_chromium
def test_a_link_to_a_mistake_leads_to_it(book: Path, tab: Any) -> None:
    """A link on the page of the mistakes leads to the claim, and unfolds the mistake."""
    tab.goto((book / "generated" / "mistakes.html").as_uri())

    links = tab.locator(".entry a").evaluate_all("all => all.map(a => a.href)")
    folded = 0
    for link in links[:10]:
        tab.goto(link)
        at = f"[id='{link.partition('#')[2]}']"
        folded += tab.locator(f"details{at}[open]").count()
        target = tab.locator(f"details{at}[open], section:has(> span{at}), section{at}").first
        assert target.get_by_text("What happened").first.is_visible(), link

    assert folded, "most mistakes are folded, and open for the link"


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_are_accessible_and_fit(book: Path, browser: Any, width: str, scheme: str) -> None:
    """On every lesson and kind of page, axe finds no serious violation, nothing is too wide."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 800}, color_scheme=scheme
    )
    page = context.new_page()
    lessons = [f"generated/lessons/{path.stem}" for path in (book / "generated/lessons").iterdir()]
    checks: list[tuple[Any, Any]] = [(SAMPLED, CONTRAST)]
    # These see each width and each scheme in two of the four pairs.
    if (width, scheme) in (("desktop", "light"), ("phone", "dark")):
        checks.append((None, OTHERS))
    found = []
    for name in dict.fromkeys([*KINDS, *lessons]):
        page.goto((book / f"{name}.html").as_uri())
        page.evaluate(UNFOLD)
        page.evaluate(SAMPLE)
        inner = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        if inner[0] > inner[1]:
            found.append(f"{name}: {inner[0]} pixels on {inner[1]}")
        results = [axe.run(page, part, options).response for part, options in checks]
        for violation in [each for result in results for each in result["violations"]]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:150] for node in violation["nodes"]][:3]
                found.append(
                    f"{name}: {violation['id']} {len(violation['nodes'])} {json.dumps(nodes)}"
                )
    context.close()

    assert not found, "\n".join(found)
