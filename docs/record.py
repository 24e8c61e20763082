"""Record what the book shows: runs of the laws, benchmarks, and training runs with pictures.

    python docs/record.py laws --device cpu --jobs 2        # run the laws in this environment
    python docs/record.py laws --from results.xml           # record a finished run
    python docs/record.py benchmark strategies --rounds 5   # the output of benchmarks/strategies.py
    python docs/record.py runs                              # train and transfer, with pictures

Everything goes to docs/results/. The records of the laws contain no host names, paths, timings or
memory addresses, so two runs with the same results write the same file.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from PIL import Image

from dlconcepts.data.make_photographs import PHOTOGRAPHS
from dlconcepts.testing.claims import LESSONS
from dlconcepts.testing.run import environment, find_devices

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
TEMPORARY = tempfile.gettempdir()  # where tests write files
DROPPED = {"seconds", "torch", "verdict"}  # timings, and facts recorded once for the run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    laws = commands.add_parser("laws", help="run the laws, or read the results.xml of a run")
    laws.add_argument("--device", nargs="+", default=["cpu"])
    laws.add_argument("--profile", default="book")
    laws.add_argument("--jobs", type=int, default=1)
    laws.add_argument("--from", dest="source", type=Path, metavar="RESULTS.XML")
    benchmark = commands.add_parser("benchmark", help="run a benchmark and record its output")
    benchmark.add_argument("name", help="the file in benchmarks/, without .py")
    commands.add_parser("runs", help="train on Fashion-MNIST, and on photographs")
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "benchmark":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if arguments.command == "laws":
        record_laws(arguments)
    elif arguments.command == "benchmark":
        command = [f"benchmarks/{arguments.name}.py", *rest]
        record_output(command, RESULTS / "benchmarks" / f"{arguments.name}.json")
    else:
        record_runs()


def record_laws(arguments: argparse.Namespace) -> None:
    """Record a run of the laws: run them here, or read the results.xml that --from names."""
    with tempfile.TemporaryDirectory() as folder:
        source = arguments.source or Path(folder) / "results.xml"
        if arguments.source is None:
            command = [sys.executable, "-m", "dlconcepts", "verify", "--out", folder]
            command += ["--profile", arguments.profile, "--jobs", str(arguments.jobs)]
            command += ["--device", *arguments.device]
            # 1 means that something failed or is missing, which a record may show.
            if subprocess.run(command, cwd=ROOT).returncode not in (0, 1):
                sys.exit("the laws did not run, so nothing is recorded; the reason is above")
        suite = clean(ET.parse(source), facts(arguments.device, arguments.profile))
    torch_version = suite.find("properties/property[@name='torch']").get("value").partition("+")[0]
    file = RESULTS / f"torch-{torch_version}-{'-'.join(arguments.device)}.xml"
    RESULTS.mkdir(exist_ok=True)
    ET.indent(suite)
    ET.ElementTree(suite).write(file, encoding="utf-8", xml_declaration=True)
    print(f"wrote {file.relative_to(ROOT)}: {len(suite.findall('testcase'))} items")


def facts(devices: Sequence[str], profile: str) -> dict[str, str]:
    """Return versions and device models of a run, but nothing that identifies the machine."""
    found = environment(find_devices(devices), profile)
    del found["platform"]
    found["date"] = found["date"].partition(" ")[0]
    return found


def clean(results: ET.ElementTree, known: Mapping[str, str]) -> ET.Element:
    """Return the test suite of a results.xml with the known facts, without the machine's own."""
    suite = ET.Element("testsuite", name="dlconcepts")
    properties = ET.SubElement(suite, "properties")
    sources = {
        f"source:{file.relative_to(ROOT).as_posix()}": sha256(file.read_bytes()).hexdigest()[:16]
        for lesson in LESSONS
        for file in sorted((ROOT / "tests" / lesson).glob("test_*.py"))
    }
    for name, value in {**known, **sources}.items():
        ET.SubElement(properties, "property", name=name, value=value)
    for case in results.iter("testcase"):
        other = case.find("properties/property[@name='torch']")
        if other is not None and other.get("value") != known["torch"]:
            sys.exit(f"the run used torch {other.get('value')}, but this is torch {known['torch']}")
        if case.find("properties/property[@name='claim']") is not None:
            suite.append(clean_case(case))
    return suite


def clean_case(case: ET.Element) -> ET.Element:
    """Return a test case without paths, timings and addresses."""
    attributes = {key: clean_text(case.get(key, "")) for key in ("classname", "name")}
    cleaned = ET.Element("testcase", attributes)
    kept = [p for p in case.iter("property") if p.get("name") not in DROPPED and p.get("value")]
    if kept:
        properties = ET.SubElement(cleaned, "properties")
        for each in kept:
            name, value = each.get("name", ""), clean_text(each.get("value", ""))
            ET.SubElement(properties, "property", name=name, value=value)
    for fault in case:
        if fault.tag in ("failure", "error", "skipped"):
            message = clean_text(fault.get("message", ""))
            ET.SubElement(cleaned, fault.tag, message=message)
    return cleaned


def clean_text(text: str) -> str:
    """Remove paths, addresses, and lines about other packages from a text.

    >>> clean_text(f"<function f at 0x7f51> in {TEMPORARY}/pytest-of-me/pytest-3/gw1/a0")
    '<function f> in a0'
    """
    text = re.sub(r" at 0x[0-9a-f]+|\x1b\[\d*m| \(Triggered internally at [^)]*\)", "", text)
    temporary = re.escape(TEMPORARY)
    text = re.sub(rf"{temporary}/pytest-of-[^/]+/pytest-\d+/(?:(?:popen-)?gw\d+/)?", "", text)
    text = re.sub(rf"{temporary}/{tempfile.gettempprefix()}\w{{8}}\b", "folder", text)
    # Hypothesis's explanation also lists lines of other packages, which say nothing about the law.
    text = re.sub(r"^ +(?:/\S*/(?:site|dist)-packages|/usr)/\S*:\d+\n?", "", text, flags=re.M)
    text = re.sub(r"^( +)/\S*/(tests|dlconcepts)/", r"\1\2/", text, flags=re.M)
    text = re.sub(r"^ +\(and \d+ more with settings.*\n?", "", text, flags=re.M)
    text = re.sub(r"Explanation:\n.*:\n?(?! )", "", text).strip("\n")
    # Cut any other path into a folder of this machine to its last part.
    homes = "|".join(re.escape(str(path)) for path in (ROOT, Path.home(), sys.prefix))
    return re.sub(rf"(?:{homes})[\w./-]*/", "", text)


def record_output(command: Sequence[str], file: Path) -> None:
    """Run a Python command in the project's folder and record its output."""
    file.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{shlex.join(command)} exited with status {done.returncode}: nothing is recorded")
    known = facts(["cpu"], "")
    record = {
        "command": clean_text(f"python {shlex.join(command)}"),
        "environment": {key: value for key, value in known.items() if value},
        "output": clean_text(done.stdout.replace("\r", "\n")),
    }
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {file.relative_to(ROOT)}")


def record_runs() -> None:
    """Train on Fashion-MNIST and on photographs, and record the output and the pictures."""
    commands = {"train": [], "transfer": [str(PHOTOGRAPHS)]}
    out = Path("build/runs")
    for name, options in commands.items():
        shutil.rmtree(ROOT / out / name, ignore_errors=True)
        command = ["-m", "dlconcepts", name, *options, "--out", str(out / name)]
        record_output(command, RESULTS / "runs" / f"{name}.json")
        for picture in sorted((ROOT / out / name).glob("*.png")):
            # The photographs are under the GPL, so no picture of them is kept.
            if (name, picture.name) != ("transfer", "predictions.png"):
                colours = Image.open(picture).convert("RGB").quantize(256)
                colours.save(RESULTS / "runs" / f"{name}-{picture.name}", optimize=True)


if __name__ == "__main__":
    main()
