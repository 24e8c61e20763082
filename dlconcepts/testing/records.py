"""Recorded runs of the laws: clean what differs from run to run, find and read them.

A record that names a reference, another file in its folder, holds only what differs from it.
"""

import re
import sys
import tempfile
import xml.etree.ElementTree as ET
from hashlib import sha256
from pathlib import Path

from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import LESSONS, TESTS
from dlconcepts.testing.results import add_properties

ROOT = TESTS.parent
RESULTS = ROOT / "docs" / "results"
CLAIM = ".//property[@name='claim']"
DROPPED = {"seconds", "torch", "verdict"}  # timings, and facts recorded once for the run
REMEDY = "give a results.xml that `verify` wrote, or a recorded version such as 2.14"


def clean_case(case: ET.Element) -> ET.Element:
    """Return a test case without paths, timings and addresses."""
    attributes = {key: clean_text(case.get(key, "")) for key in ("classname", "name")}
    cleaned = ET.Element("testcase", attributes)
    found = sorted((p.get("name", ""), p.get("value", "")) for p in case.iter("property"))
    texts = {name: clean_text(value) for name, value in found if value and name not in DROPPED}
    if texts:
        add_properties(cleaned, texts)
    for fault in case:
        if fault.tag in ("failure", "error", "skipped"):
            ET.SubElement(cleaned, fault.tag, message=clean_text(fault.get("message", "")))
    return cleaned


def clean_text(text: str) -> str:
    """Remove paths, addresses, and lines about other packages from a text.

    >>> clean_text("<function f at 0x7f51> in /x/pytest-of-me/pytest-3/gw1/a0")
    '<function f> in a'
    """
    text = re.sub(r"worker 'gw\d+' crashed", "its process crashed", text)
    text = re.sub(r" at 0x[0-9a-f]+|\x1b\[\d*m| \(Triggered internally at [^)]*\)", "", text)
    folder = r"/[\w./-]*pytest-of-[^/]+/pytest-\d+/(?:(?:popen-)?gw\d+/)?"
    text = re.sub(rf"{folder}([\w-]*?)\d*(?![\w-])", r"\1", text)  # pytest counts the folders
    temporary = rf"{re.escape(tempfile.gettempdir())}/{tempfile.gettempprefix()}"
    text = re.sub(rf"{temporary}\w{{8}}\b", "folder", text)
    text = text.replace("Falsifying example: ", "Failing test case: ")  # Hypothesis before 6.160
    # Hypothesis's explanation also lists lines of other packages, which say nothing about the law.
    text = re.sub(r"^ +(?:/\S*/(?:site|dist)-packages|/usr)/\S*:\d+\n?", "", text, flags=re.M)
    text = re.sub(r"^( +)/\S*/(tests|dlconcepts)/", r"\1\2/", text, flags=re.M)
    text = re.sub(r"^ +\(and \d+ more with settings.*\n?", "", text, flags=re.M)
    text = re.sub(r"Explanation:\n.*:\n?(?! )", "", text).strip("\n")
    # Cut any other path into a folder of this machine, or a package, to its last part.
    homes = "|".join(re.escape(str(path)) for path in (ROOT, Path.home(), sys.prefix))
    return re.sub(rf"(?:{homes}|/[\w./-]*/(?:site|dist)-packages)[\w./-]*/", "", text)


def find(word: str) -> Path:
    """Return the file of a run: a path, a folder of `verify`, or a version such as 2.14-cuda."""
    path = Path(word)
    if path.is_dir():
        return path / "results.xml"
    version = re.fullmatch(r"(\d+(?:\.\d+)*)(?:-(\w+))?", word)
    return path if path.exists() or not version else find_version(version[1], version[2] or "cpu")


def find_version(version: str, device: str) -> Path:
    """Return the newest record of this version of torch; raise UserError if there is none."""
    files = sorted(RESULTS.glob(f"torch-*-{device}.xml"), key=numbers_in)
    found = {file.stem.removesuffix(f"-{device}").removeprefix("torch-"): file for file in files}
    same = [file for name, file in found.items() if f"{name}.".startswith(f"{version}.")]
    if not same:
        raise UserError(
            f"no run of torch {version} on {device} is recorded in {RESULTS}, which has "
            f"{', '.join(found) or 'none'}; name one of these, or two files"
        )
    return same[-1]


def numbers_in(file: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", file.name)]


def load(file: Path) -> ET.Element:
    """Return the whole test suite of a run; raise UserError if the file holds none."""
    suite = parse(file)
    return expand(suite, file) if "like" in suite.attrib else suite


def parse(file: Path) -> ET.Element:
    """Return the test suite of a file as it is."""
    try:
        root = ET.parse(file).getroot()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}; {REMEDY}") from error
    except ET.ParseError as error:
        raise UserError(f"{file} is truncated or not XML: {error}; {REMEDY}") from error
    suite = root if root.tag == "testsuite" else root.find("testsuite")
    if suite is None or ("like" not in suite.attrib and suite.find(CLAIM) is None):
        raise UserError(f"{file} is no run of the laws: no test in it names a claim; {REMEDY}")
    return suite


def expand(suite: ET.Element, file: Path) -> ET.Element:
    """Add the test cases that a record shares with its reference."""
    reference = file.with_name(Path(suite.attrib.pop("like")).name)
    same = parse(reference)
    if suite.attrib.pop("digest", "") != digest(same):
        raise UserError(f"{file} was recorded against another {reference.name}; record it again")
    own = {(c.get("classname"), c.get("name")): c for c in suite if c.tag != "properties"}
    for case in same.iter("testcase"):
        mine = own.setdefault((case.get("classname"), case.get("name")), case)
        if mine is case:
            suite.append(case)
        elif mine.tag == "missing":
            suite.remove(mine)
        else:
            known = {p.get("name") for p in mine.iter("property")}
            others = [p for p in case.iter("property") if p.get("name") not in known]
            ET.SubElement(mine, "properties").extend(others)
            mine[:] = list(clean_case(mine))  # without the empty ones, which this case lacks
    return suite


def digest(suite: ET.Element) -> str:
    """Return a digest of the test cases of a suite, whatever their indentation and order."""
    cases = sorted(ET.tostring(clean_case(case)) for case in suite.iter("testcase"))
    return sha256(b"".join(cases)).hexdigest()[:16]


def sources() -> dict[str, str]:
    """Return a digest of each claim's file, as it is now."""
    return {
        f"source:{file.relative_to(ROOT).as_posix()}": sha256(file.read_bytes()).hexdigest()[:16]
        for lesson in LESSONS
        for file in sorted((TESTS / lesson).glob("test_*.py"))
    }
