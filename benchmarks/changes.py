"""Which subtle changes of the techniques the laws notice: changes written before any law was read.

    python benchmarks/changes.py                  # all of benchmarks/change_list.py
    python benchmarks/changes.py NAME ...         # some of them
    python benchmarks/changes.py --baseline       # the laws without a change, which must pass
    python benchmarks/changes.py --json FILE      # write each result at once; resume from there

Each change is applied to a copy of the project. There the laws of its lesson run with their right
subjects, and the tests of its techniques, until one fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from change_list import CHANGES

ROOT = Path(__file__).parents[1]
LIMIT = 600  # seconds after which a run counts as "did not finish"


def copy(target: Path) -> None:
    skip = shutil.ignore_patterns("__pycache__", ".hypothesis", "*.pyc")
    for name in ("dlconcepts", "tests"):
        shutil.copytree(ROOT / name, target / name, ignore=skip, symlinks=True)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, target / name)


def laws(tree: Path, lesson: str) -> dict:
    """Run the laws of a lesson; return what happened."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    where = subprocess.run(
        [sys.executable, "-c", "import dlconcepts; print(dlconcepts.__file__)"],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
    )
    if not where.stdout.strip().startswith(str(tree)):
        return {"result": "error", "message": f"imported {where.stdout or where.stderr}"}
    files = [f"tests/{lesson}", f"tests/techniques/test_{lesson}.py"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-m",
        "not mistake and not demonstration",
        "--hypothesis-profile=power",
        "--tb=short",
        "--junitxml=report.xml",
        *(name for name in files if (tree / name).exists()),
    ]
    start = time.monotonic()
    with (tree / "out.txt").open("w") as out:
        process = subprocess.Popen(
            command, cwd=tree, env=env, stdout=out, stderr=out, start_new_session=True
        )
        try:
            code = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return {"result": "did not finish", "seconds": LIMIT}
    found = {"seconds": round(time.monotonic() - start), "exit": code}
    text = (tree / "out.txt").read_text(errors="replace")
    if code == 0:
        return {"result": "not noticed", **found, "message": text.strip().splitlines()[-1]}
    report = tree / "report.xml"
    if code == 1 and report.exists():
        for case in ET.parse(report).iter("testcase"):
            for fault in (*case.iter("failure"), *case.iter("error")):
                law = f"{case.get('classname')}::{case.get('name')}"
                message = " ".join((fault.get("message") or "").split())[:600]
                return {"result": "noticed", **found, "law": law, "message": message}
    return {"result": "error", **found, "message": text[-1500:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--baseline", action="store_true", help="the laws without any change")
    args = parser.parse_args()
    results = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    changes = [change for change in CHANGES if not args.names or change[0] in args.names]
    if args.baseline:
        lessons = dict.fromkeys(change[1] for change in changes)
        changes = [(f"baseline: {lesson}", lesson, None, "", "", "") for lesson in lessons]
    for name, lesson, module, old, new, sentence in changes:
        if name in results:
            continue
        with tempfile.TemporaryDirectory() as folder:
            tree = Path(folder).resolve()
            copy(tree)
            found = None
            if module is not None:
                source = (tree / module).read_text()
                if source.count(old) == 1:
                    (tree / module).write_text(source.replace(old, new))
                else:
                    count = source.count(old)
                    found = {"result": "does not apply", "message": f"snippet found {count} times"}
            results[name] = {"lesson": lesson, "change": sentence, **(found or laws(tree, lesson))}
        if args.json:
            args.json.write_text(json.dumps(results, indent=1))
        shown = results[name]
        print(f"{name} ({lesson}): {shown['result']} {shown.get('law', '')}", flush=True)
        print(f"    {shown.get('message', '')}", flush=True)
    changed = [name for name, *_ in CHANGES if name in results]
    for kind in ("noticed", "not noticed", "did not finish", "does not apply", "error"):
        names = [name for name in changed if results[name]["result"] == kind]
        print(f"{kind}: {len(names)} {', '.join(names) if kind != 'noticed' else ''}")


if __name__ == "__main__":
    main()
