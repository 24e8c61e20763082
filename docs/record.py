"""Record what the book shows: runs of the laws, benchmarks, and training runs with pictures.

    python docs/record.py laws --device cpu --jobs 2        # run the laws in this environment
    python docs/record.py laws --torch 2.9.1 2.10.0         # install and run other versions
    python docs/record.py laws --from results.xml           # record a finished run
    python docs/record.py benchmark strategies --rounds 5   # the output of benchmarks/strategies.py
    python docs/record.py runs                              # train and transfer, with pictures
    python docs/record.py watch                             # one bug for each law of `watch`

Everything goes to docs/results/. The records of the laws contain no host names, paths, timings or
memory addresses, so two runs with the same results write the same file.
"""

import argparse
import difflib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests, which nobody installs

from dlconcepts.support.errors import UserError
from dlconcepts.testing.claims import all_claims
from dlconcepts.testing.records import clean_case, clean_text, digest, load, sources
from dlconcepts.testing.results import judge, read_item
from dlconcepts.testing.run import environment, find_devices
from dlconcepts.watch.law import Law
from dlconcepts.watch.laws import LAWS
from dlconcepts.watch.report import Finding, described
from tests.data.make_photographs import PHOTOGRAPHS
from tests.watch import programs
from tests.watch.mutations import BUGS, Mutant
from tests.watch.programs import Program
from tests.watch.running import Runner

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
REFERENCE = "torch-2.14.1-cpu.xml"  # the one record that is whole
MACHINES = ("x86_64", "AMD64", "aarch64", "arm64")
# The last patch of each minor version, and the torchvision that was made for it.
TORCHVISION = {
    "2.6.0": "0.21.0",
    "2.7.1": "0.22.1",
    "2.8.0": "0.23.0",
    "2.9.1": "0.24.1",
    "2.10.0": "0.25.0",
    "2.11.0": "0.26.0",
    "2.12.1": "0.27.1",
    "2.13.0": "0.28.0",
    "2.14.1": "0.29.1",
    "2.15.0": "0.29.2",
}
# What `verify` needs besides.
SAME = (
    *("numpy", "scipy", "pillow", "matplotlib", "rich", "jinja2"),
    *("hypothesis", "pytest"),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    laws = commands.add_parser("laws", help="run the laws, or read the results.xml of a run")
    laws.add_argument("--device", nargs="+", default=["cpu"])
    laws.add_argument("--profile", default="book")
    laws.add_argument("--jobs", type=int, default=2)
    laws.add_argument("--torch", nargs="+", help="versions to install and run, one after another")
    laws.add_argument("--from", dest="source", type=Path, metavar="RESULTS.XML")
    benchmark = commands.add_parser("benchmark", help="run a benchmark and record its output")
    benchmark.add_argument("name", help="the file in benchmarks/, without .py")
    commands.add_parser("runs", help="train on Fashion-MNIST, and on photographs")
    commands.add_parser("watch", help="watch a script with a bug for each law")
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "benchmark":
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if arguments.command == "laws":
        try:
            record_laws(arguments)
        except UserError as error:
            sys.exit(str(error))
    elif arguments.command == "benchmark":
        command = [f"benchmarks/{arguments.name}.py", *rest]
        record_output(command, RESULTS / "benchmarks" / f"{arguments.name}.json")
    elif arguments.command == "watch":
        record_watch()
    else:
        record_runs()


def record_laws(arguments: argparse.Namespace) -> None:
    """Record runs of the laws: run them, or read the results.xml that --from names."""
    if arguments.source:
        write(clean(load(arguments.source)))
        return
    missing = []
    for version in arguments.torch or [""]:
        with tempfile.TemporaryDirectory() as folder:
            python = install(version, Path(folder) / "venv") if version else sys.executable
            command = [python, "-m", "dlconcepts", "verify", "--out", folder]
            command += ["--profile", arguments.profile, "--jobs", str(arguments.jobs)]
            command += ["--device", *arguments.device]
            # 1 means that something failed or is missing, which a record may show.
            if python and subprocess.run(command, cwd=ROOT).returncode in (0, 1):
                write(clean(load(Path(folder) / "results.xml")))
            else:
                missing.append(version or "here")
    if missing:
        sys.exit(f"not recorded, for the reasons above: {', '.join(missing)}")


def install(version: str, folder: Path) -> str:
    """Install a version of torch into a new environment, and return its Python; "" if that fails.

    All other packages have the versions of this environment, so that torch alone differs.
    """
    if version not in TORCHVISION:
        print(f"torch {version} is not in the table TORCHVISION of {__file__}; add it")
        return ""
    packages = [f"torch=={version}", f"torchvision=={TORCHVISION[version]}"]
    packages += [f"{name}=={metadata.version(name)}" for name in SAME]
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages])
    if done.returncode:
        print(f"torch {version} cannot be installed here; pip says why above")
    return "" if done.returncode else str(python)


def clean(results: ET.Element) -> ET.Element:
    """Return the laws of a run and its facts, without what identifies the machine."""
    known = {p.get("name", ""): p.get("value", "") for p in results.iterfind("properties/property")}
    if not {"torch", "device", "profile"} <= known.keys():
        sys.exit("the file does not say with what it was made; run `verify` again")
    platform = known.pop("platform", "")
    known["machine"] = next((name for name in MACHINES if name in platform), "")
    known["date"] = known.get("date", "").partition(" ")[0]
    suite = ET.Element("testsuite", name="dlconcepts")
    properties = ET.SubElement(suite, "properties")
    for name, value in {**known, **sources()}.items():
        ET.SubElement(properties, "property", name=name, value=value)
    names = {f"tests.{claim.lesson}.{claim.path.stem}": claim.id for claim in all_claims()}
    for case in results.iter("testcase"):
        if case.find("properties/property[@name='claim']") is not None:
            suite.append(clean_case(case))
        elif case.get("classname") in names and case.find("failure") is not None:
            suite.append(clean_case(crashed(case, names[case.get("classname")])))
    return suite


def crashed(case: ET.Element, claim: str) -> ET.Element:
    """Say which law a test is of, since its process died before it could."""
    kind, _, subject = case.get("name").partition("[")[2].removesuffix("]").partition("-")
    said = {"claim": claim, "kind": "wrong" if kind == "wrong" else "right", "subject": subject}
    said["device"] = "cpu" if kind == "wrong" else kind
    properties = ET.SubElement(case, "properties")
    for name, value in said.items():
        ET.SubElement(properties, "property", name=name, value=value)
    return case


def write(suite: ET.Element) -> None:
    """Write a record; all but the reference hold only what differs from the reference."""
    torch, device = (
        suite.find(f"properties/property[@name='{name}']").get("value")
        for name in ("torch", "device")
    )
    devices = "-".join(each.partition(" ")[0] for each in device.split(", "))
    file = RESULTS / f"torch-{torch.partition('+')[0]}-{devices}.xml"
    RESULTS.mkdir(exist_ok=True)
    suites = {file: suite}
    if file.name == REFERENCE:
        others = [other for other in RESULTS.glob("torch-*.xml") if other != file]
        suites |= {other: load(other) for other in others}
    for path, whole in suites.items():
        reference = RESULTS / REFERENCE
        small = whole if path == reference else compressed(whole, reference)
        ET.indent(small)
        ET.ElementTree(small).write(path, encoding="utf-8", xml_declaration=True)
        tests = len(whole.findall("testcase"))
        print(f"wrote {path.name}: {tests} tests, {path.stat().st_size / 1000:.0f} KB")
    if left := judge(map(read_item, suite.iter("testcase")), all_claims()).unfinished:
        print(f"not finished in this run: {', '.join(claim.id for claim in left)}")


def compressed(suite: ET.Element, reference: Path) -> ET.Element:
    """Return a suite with only what differs from the reference, if that is recorded."""
    if not reference.exists():
        return suite
    same = load(reference)
    known = {(c.get("classname"), c.get("name")): clean_case(c) for c in same.iter("testcase")}
    small = ET.Element("testsuite", name="dlconcepts", like=reference.name, digest=digest(same))
    small.extend(suite.findall("properties"))
    for case in map(clean_case, suite.iter("testcase")):
        twin = known.pop((case.get("classname"), case.get("name")), None)
        if twin is None or ET.tostring(twin) != ET.tostring(case):
            small.append(case if twin is None else changed(case, twin))
    for classname, name in known:
        ET.SubElement(small, "missing", classname=classname, name=name)
    return small


def changed(case: ET.Element, twin: ET.Element) -> ET.Element:
    """Return a test case with the properties that differ; those that it lacks are empty."""
    before, now = (
        {p.get("name"): p.get("value") for p in each.iter("property")} for each in (twin, case)
    )
    small = ET.Element(case.tag, case.attrib)
    properties = ET.SubElement(small, "properties")
    for name in sorted(before | now):
        if before.get(name) != now.get(name):
            ET.SubElement(properties, "property", name=name, value=now.get(name, ""))
    small.extend(fault for fault in case if fault.tag != "properties")
    return small


def facts(devices: Sequence[str], profile: str) -> dict[str, str]:
    """Return versions and device models of a run, but nothing that identifies the machine."""
    found = environment(find_devices(devices), profile)
    del found["platform"]
    found["date"] = found["date"].partition(" ")[0]
    return found


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


def record_watch() -> None:
    """Plant a bug of each law of `watch` into a correct script, and record what is said of it."""
    scripts = [*programs.KINDS.values(), *programs.sample(24)]
    runner, found = Runner(jobs=2), {}
    for law in LAWS:
        planted = ((s, b.plant(s)) for b in BUGS if b.law == law.id for s in scripts)
        examples = (example(runner, law, s, m) for s, m in planted if m is not None)
        found[law.id] = next(filter(None, examples), None)
        print(law.id, "recorded" if found[law.id] else "has no example", flush=True)
    runner.close()
    known = {key: value for key, value in facts(["cpu"], "").items() if value}
    record = {"environment": known, "laws": {name: each for name, each in found.items() if each}}
    file = RESULTS / "watch.json"
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def example(
    runner: Runner, law: type[Law], script: Program, mutant: Mutant
) -> dict[str, str] | None:
    """Return the edit that plants a bug, and what is said of it, if that names its line."""
    with tempfile.TemporaryDirectory() as folder:
        broken = runner.run(mutant.text, Path(folder)).broken()
    said = next((each for each in broken if each["law"] == law.id), None)
    if said is None or not mutant.near(said["line"]):
        return None
    lesson = law.lesson
    finding = Finding(law.id, "broken", "train.py", said["line"], said["message"], said["proof"])
    head, *text = described(finding, lesson, width=84)  # as a page is wide
    lines, wrong = script.text.splitlines(), mutant.text.splitlines()
    _, _, *edit = difflib.unified_diff(lines, wrong, lineterm="", n=2)
    head += f"  {wrong[finding.line - 1].strip()}"
    said_in_full = clean_text("\n".join([head, *text]))
    return {"concept": lesson.concept, "edit": "\n".join(edit), "said": said_in_full}


if __name__ == "__main__":
    main()
