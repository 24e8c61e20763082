"""`python -m dlconcepts compare` finds what differs between two runs, and admits what it cannot."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dlconcepts.testing import records
from dlconcepts.testing.records import clean_text, digest, load
from tests.cli.common import run

FACTS = {"torch": "2.14.1+cu130", "device": "cpu (a)", "profile": "ci", "hypothesis": "6.170.17"}
RELU, SHAPES = "tests.networks.test_relu", "tests.tensors.test_shapes"
COUNTEREXAMPLE = "Failing test case: test_law(\n    relu=leaks,\n    x=tensor([{}]),\n)"
# Two claims: a law with a mistake, and a law alone.
RIGHT, WRONG, ALONE = "test_law[cpu-relu]", "test_law[wrong-leaks]", "test_shape[cpu-shape]"
RUN: dict[str, dict[str, Any]] = {
    RIGHT: {"at": RELU, "claim": "networks.relu", "kind": "right", "device": "cpu"},
    WRONG: {
        **{"at": RELU, "claim": "networks.relu", "kind": "wrong", "device": "cpu"},
        **{"reason": "negative", "counterexample": COUNTEREXAMPLE.format("-1.")},
    },
    ALONE: {"at": SHAPES, "claim": "tensors.shapes", "kind": "right", "device": "cpu"},
}


def results(tests: Mapping[str, Mapping[str, Any]], facts: Mapping[str, str]) -> ET.Element:
    """Return a run as XML."""
    suite = ET.Element("testsuite", name="dlconcepts")
    add_properties(suite, facts)
    for name, said in tests.items():
        case = ET.SubElement(suite, "testcase", classname=said["at"], name=name, time="0.1")
        add_properties(case, {k: v for k, v in said.items() if k not in ("at", "failure", "skip")})
        for key, tag in (("failure", "failure"), ("skip", "skipped")):
            if key in said:
                ET.SubElement(case, tag, message=said[key])
    return suite


def add_properties(parent: ET.Element, values: Mapping[str, str]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=value)


def write(
    file: str, changes: Mapping[str, Mapping[str, Any] | None] | None = None, **facts: str
) -> None:
    """Write a run with changes of its tests; None removes one, and the change itself adds one."""
    tests = {name: {**said} for name, said in RUN.items()}
    for name, change in (changes or {}).items():
        if change is None:
            del tests[name]
        else:
            tests[name] = {**tests.get(name, {}), **change}
    ET.ElementTree(results(tests, {**FACTS, **facts})).write(file)


def compared(capsys: pytest.CaptureFixture[str], line: str = "a.xml b.xml") -> dict[str, Any]:
    """Compare two files, and return the JSON with the exit status."""
    status = run(f"compare {line} --json")
    return {**json.loads(capsys.readouterr().out), "status": status}


@pytest.fixture
def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Record two runs in a folder of their own."""
    place = folder / "recorded"
    place.mkdir()
    monkeypatch.setattr(records, "RESULTS", place)
    write("recorded/torch-2.9.1-cpu.xml", torch="2.9.1")
    write("recorded/torch-2.14.1-cpu.xml", machine="x86_64")
    return place


def test_a_run_agrees_with_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two equal runs have no difference, and the status is 0."""
    write("a.xml")
    write("b.xml")

    found = compared(capsys)

    assert (found["status"], found["differences"], found["worse"]) == (0, [], 0)
    assert found["only"] == {"A": {}, "B": {}}
    assert found["incomparable"] == []
    assert (found["same_laws"], found["laws"], found["tests"]) == (2, 2, 3)


@pytest.mark.parametrize(
    ("test", "change", "what", "status"),
    [
        (RIGHT, {"failure": "AssertionError: leaks"}, "verdict", 1),
        (WRONG, {"failure": "Failed: passed"}, "verdict", 1),
        (ALONE, {"skip": "no photographs"}, "verdict", 1),
        (WRONG, {"counterexample": COUNTEREXAMPLE.format("-2.")}, "counterexample", 0),
    ],
)
def test_a_planted_difference_is_found(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    test: str,
    change: dict[str, str],
    what: str,
    status: int,
) -> None:
    """It is named with its claim and test; the status is 1 only if a verdict worsened."""
    write("a.xml")
    write("b.xml", {test: change})

    found = compared(capsys)

    first = found["differences"][0]
    assert (first["what"], first["claim"]) == (what, RUN[test]["claim"])
    assert {each["test"] for each in found["differences"]} == {test.replace("cpu-", "")}
    assert found["status"] == found["worse"] == status
    assert found["same_laws"] == 2 - status


def test_a_verdict_that_improved_is_no_failure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a difference, and the status is 0."""
    write("a.xml", {RIGHT: {"failure": "AssertionError: leaks"}})
    write("b.xml")

    found = compared(capsys)

    assert found["status"] == 0
    assert found["differences"][0]["before"] == "FAILED"


def test_another_exception_is_not_another_message(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two failures that differ in the exception alone differ in nothing else."""
    write("a.xml", {RIGHT: {"failure": "TypeError: no: such\nthing"}})
    write("b.xml", {RIGHT: {"failure": "ValueError: no: such\nthing"}})
    write("c.xml", {RIGHT: {"failure": "ValueError: no: other\nthing"}})
    write("d.xml", {RIGHT: {"failure": "test_relu.py:5: DocTestFailure"}})

    found = [
        [each["what"] for each in compared(capsys, files)["differences"]]
        for files in ("a.xml b.xml", "b.xml c.xml", "c.xml d.xml")
    ]

    assert found == [["exception"], ["message"], ["exception", "message"]]


def test_addresses_paths_and_times_are_no_differences(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs on two machines agree if only such parts of their texts differ."""
    texts = [
        "<f at 0x7f1> in /x/pytest-of-me/pytest-1/gw0/files0, /a/lib/site-packages/torch/nn.py",
        "<f at 0x2> in /y/z/pytest-of-you/pytest-22/files13, /b/c/site-packages/torch/nn.py",
    ]
    for name, text in zip(("a.xml", "b.xml"), texts, strict=True):
        write(name, {WRONG: {"counterexample": text, "seconds": str(len(text))}})

    assert compared(capsys)["differences"] == []
    assert clean_text(texts[0]) == "<f> in files, nn.py"


def test_what_one_run_lacks_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run of one lesson is compared in that lesson; the rest is named, and no law agrees."""
    write("a.xml")
    write("b.xml", {ALONE: None})

    found, reverse = compared(capsys), compared(capsys, "b.xml a.xml")

    assert found["status"] == reverse["status"] == 0
    assert found["only"] == {"A": {"tensors.shapes": [f"{SHAPES}.test_shape[shape]: ok"]}, "B": {}}
    assert (found["same_laws"], found["laws"]) == (1, 2)
    assert list(reverse["only"]["B"]) == ["tensors.shapes"]


def test_only_some_of_many_claims_are_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of one claim does not print the names of all others."""
    many = {f"test_{n}[cpu-f]": {**RUN[ALONE], "claim": f"tensors.c{n}"} for n in range(12)}
    write("a.xml", many)
    write("b.xml")

    assert run("compare a.xml b.xml") == 0

    printed = capsys.readouterr().out
    assert "only in A: 12 tests of 12 claims: tensors.c0, " in printed
    assert ", tensors.c8 and 3 more\n" in printed


def test_a_file_that_cannot_be_imported_is_a_failure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its laws did not run, and pytest reports the file alone; that is a verdict worse."""
    write("a.xml")
    lost = {"at": "", "failure": "ImportError: no name"}
    write("b.xml", {ALONE: None, SHAPES: lost})

    found = compared(capsys)

    assert found["status"] == found["worse"] == 1
    assert found["only"]["B"] == {SHAPES: [f"{SHAPES}[]: FAILED"]}


def test_a_law_that_killed_its_process_is_a_failure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its test says neither claim nor device, and is still the same test."""
    crash = "worker 'gw1' crashed while running 'x'"
    write("a.xml")
    write("b.xml", {RIGHT: None})
    tree = ET.parse("b.xml")
    case = ET.SubElement(tree.getroot(), "testcase", classname=RELU, name=RIGHT)
    ET.SubElement(case, "failure", message=crash)
    tree.write("b.xml")

    found = compared(capsys)

    assert (found["status"], found["only"]["B"]) == (1, {})
    message = found["differences"][-1]
    assert message["after"] == "its process crashed while running 'x'"
    assert {each["claim"] for each in found["differences"]} == {"networks.relu"}


def test_profiles_that_differ_cannot_be_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their counterexamples say nothing; their verdicts do."""
    change = {"counterexample": COUNTEREXAMPLE.format("-2.")}
    write("a.xml")
    write("b.xml", {WRONG: change, RIGHT: {"skip": "slow"}}, profile="book")

    found = compared(capsys)

    assert {each["what"] for each in found["differences"]} == {"verdict", "message"}
    assert "profiles ci and book" in found["incomparable"][0]


def test_a_claim_that_changed_cannot_be_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counterexamples of another law say nothing about torch."""
    source = f"source:{RELU.replace('.', '/')}.py"
    write("a.xml", **{source: "1"})
    write("b.xml", {WRONG: {"counterexample": COUNTEREXAMPLE.format("-2.")}}, **{source: "2"})

    found = compared(capsys)

    assert found["differences"] == []
    assert "networks.relu" in found["incomparable"][0]


def test_a_test_that_is_there_twice_cannot_be_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that were merged say two things of one test."""
    write("a.xml")
    suite = results(RUN, FACTS)
    suite.append(suite.findall("testcase")[0])
    ET.ElementTree(suite).write("b.xml")

    found = compared(capsys)

    assert found["incomparable"] == [f"{RELU}.test_law[relu] is there twice"]
    assert list(found["only"]["A"]) == ["networks.relu"]


def test_a_device_is_compared_with_another(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A law on CUDA is the same law as on the CPU."""
    write("a.xml")
    on_cuda = {RIGHT: None, "test_law[cuda-relu]": {**RUN[RIGHT], "device": "cuda"}}
    write("b.xml", on_cuda, device="cuda (H)")

    assert compared(capsys)["same_laws"] == 2


def test_a_run_alone_is_compared_with_its_record(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The record of the same torch is found; the last line says how many laws agree."""
    Path("here").mkdir()
    write("here/results.xml", {ALONE: {"failure": "AssertionError: flat"}})

    assert run("compare here") == 1

    printed = capsys.readouterr().out
    last = "your machine agrees with 1 of 2 laws recorded for 2.14.1 on x86-64"
    assert printed.splitlines()[-1] == last
    assert "tensors.shapes\ntest_shape[shape]: verdict (worse)" in printed
    assert "networks.relu" not in printed


@pytest.mark.parametrize("words", ["2.9 2.14", "2.9.1-cpu 2.14.1"])
def test_versions_name_records(
    recorded: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """A version of torch names its record, and so do its first numbers."""
    found = compared(capsys, words)

    assert [found[side]["torch"] for side in "ab"] == ["2.9.1", "2.14.1+cu130"]


def test_markdown_shows_each_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each claim has a heading, and each difference its lines in a fence."""
    write("a.xml")
    write("b.xml", {WRONG: {"counterexample": COUNTEREXAMPLE.format("-2.")}})

    assert run("compare a.xml b.xml --markdown") == 0

    printed = capsys.readouterr().out
    assert "\n### networks.relu\n- test_law[wrong-leaks]: counterexample\n" in printed
    assert "    -    x=tensor([-1.]),\n    +    x=tensor([-2.]),\n" in printed
    assert printed.count("````") == 2


def test_a_record_is_read_with_what_its_reference_says(recorded: Path) -> None:
    """A record has the tests of its reference, except its own and those it lacks."""
    reference = load(recorded / "torch-2.14.1-cpu.xml")
    changed = {**RUN[WRONG], "counterexample": "another"}
    small = results({WRONG: changed}, FACTS)
    small.set("like", "torch-2.14.1-cpu.xml")
    small.set("digest", digest(reference))
    ET.SubElement(small, "missing", classname=SHAPES, name=ALONE)
    ET.ElementTree(small).write(recorded / "torch-2.8.0-cpu.xml")

    whole = load(recorded / "torch-2.8.0-cpu.xml")

    assert digest(whole) == digest(results({WRONG: changed, RIGHT: RUN[RIGHT]}, FACTS))
