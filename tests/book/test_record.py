"""docs/record.py writes records that are small, whole, and the same from the same run."""

import importlib
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlconcepts.testing.records import digest, load

ROOT = Path(__file__).parents[2]
NAMES = ("test_a[cpu-f]", "test_a[wrong-g]", "test_b[cpu-f]")


@pytest.fixture
def record(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Import docs/record.py, which writes into an empty folder; forget it afterwards."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    module = importlib.import_module("record")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    yield module
    del sys.modules["record"]


def results(torch: str, **said: str) -> ET.Element:
    """Return a run of three tests, with a counterexample each."""
    suite = ET.Element("testsuite", name="dlconcepts")
    facts = {"torch": torch, "device": "cpu (a)", "profile": "ci", "date": "2026-01-02 03:04 UTC"}
    facts["platform"] = "Linux-6.1-secret-x86_64-with-glibc2.36"
    add_properties(suite, facts)
    for name in NAMES:
        case = ET.SubElement(suite, "testcase", classname="tests.tensors.test_x", name=name)
        add_properties(case, {"claim": "tensors.x", "counterexample": said.get(name[:6], "x")})
    return suite


def add_properties(parent: ET.Element, values: dict[str, str]) -> None:
    properties = ET.SubElement(parent, "properties")
    for name, value in values.items():
        ET.SubElement(properties, "property", name=name, value=value)


def test_a_record_says_the_machine_but_not_which(record: Any) -> None:
    """It keeps the architecture and the day, and drops the rest of the platform and the time."""
    text = ET.tostring(record.clean(results("2.14.1")), encoding="unicode")

    assert 'name="machine" value="x86_64"' in text
    assert 'value="2026-01-02"' in text
    assert "secret" not in text


def test_a_record_holds_what_differs_and_is_read_whole(record: Any, tmp_path: Path) -> None:
    """Of three tests, one differs and one is gone: the file has one, the reader two."""
    record.write(record.clean(results("2.14.1+cu130")))
    other = record.clean(results("2.9.1", test_b=""))
    other.remove(other.findall("testcase")[0])
    record.write(other)

    file = tmp_path / "torch-2.9.1-cpu.xml"
    (test,) = ET.parse(file).findall("testcase")
    assert [(p.get("name"), p.get("value")) for p in test.iter("property")] == [
        ("counterexample", "")
    ]
    assert len(ET.parse(file).findall("missing")) == 1
    assert digest(load(file)) == digest(other)
    assert all(found.get("value") for found in load(file).iter("property"))


def test_a_new_reference_leaves_the_other_records_as_they_were(record: Any, tmp_path: Path) -> None:
    """The others are written again, against the new reference, with the same tests."""
    record.write(record.clean(results("2.14.1")))
    other = record.clean(results("2.9.1", test_b="y"))
    record.write(other)
    record.write(record.clean(results("2.14.1", test_a="z")))

    file = tmp_path / "torch-2.9.1-cpu.xml"
    assert len(ET.parse(file).findall("testcase")) == len(NAMES)
    assert digest(load(file)) == digest(other)


def test_a_law_that_killed_its_process_is_recorded(record: Any) -> None:
    """Its test says nothing but its name; the record says which law and claim failed."""
    suite = results("2.8.0")
    case = ET.SubElement(suite, "testcase", classname="tests.networks.test_relu")
    case.set("name", "test_relu_is_positive[cpu-relu]")
    ET.SubElement(case, "failure", message="worker 'gw0' crashed while running")

    last = record.clean(suite).findall("testcase")[-1]

    said = {p.get("name"): p.get("value") for p in last.iter("property")}
    assert said == {"claim": "networks.relu", "kind": "right", "subject": "relu", "device": "cpu"}


def test_a_record_of_a_part_says_so(record: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that ended early has no verdict on the claims after its end; they are named."""
    record.write(record.clean(results("2.14.1")))

    printed = capsys.readouterr().out
    assert "not finished in this run: " in printed
    assert "networks.relu" in printed


def test_the_same_run_gives_the_same_file(record: Any, tmp_path: Path) -> None:
    """To record a record again changes no byte."""
    record.write(record.clean(results("2.14.1")))
    record.write(record.clean(results("2.9.1", test_b="y")))
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}

    record.write(record.clean(results("2.14.1")))

    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_version_that_cannot_be_installed_does_not_stop_the_others(
    record: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is named, the others are recorded, and the status is not 0."""

    def run(command: list[Any], **options: Any) -> SimpleNamespace:
        if "verify" in command:
            file = Path(command[command.index("--out") + 1]) / "results.xml"
            ET.ElementTree(results("2.9.1")).write(file)
        return SimpleNamespace(returncode="torch==2.8.0" in command)

    monkeypatch.setattr(record.subprocess, "run", run)

    with pytest.raises(SystemExit, match=r"not recorded.*: 1\.0\.0, 2\.8\.0$"):
        record.main(["laws", "--torch", "1.0.0", "2.8.0", "2.9.1"])

    assert [file.name for file in tmp_path.iterdir()] == ["torch-2.9.1-cpu.xml"]
    printed = capsys.readouterr().out
    assert "torch 1.0.0 is not in the table" in printed
    assert "torch 2.8.0 cannot be installed here" in printed
