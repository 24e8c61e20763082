"""`watch`."""

from tests.cli.rows import Row
from tests.cli.rows.given import full_disk, script, text, wrong_script

SUMMARY = "watch: 10 steps"
REPORTS = "--json r.json --junit r.xml --sarif r.sarif"


def ends(code: str, status: int, says: str) -> Row:
    """A script that ends in its own way, which stays its own."""
    return Row("watch own.py", status, says, [text("own.py", code)])


ROWS = [
    Row("watch script.py", 0, SUMMARY, [script]),
    Row("watch script.py --epochs 3", 0, SUMMARY, [script]),
    Row("watch -m script", 0, SUMMARY, [script, lambda patch: patch.syspath_prepend(".")]),
    Row("watch script.py", 3, "BROKEN ... zero_grad", [wrong_script]),
    Row("watch --exit-zero script.py", 0, "BROKEN", [wrong_script]),
    Row(f"watch {REPORTS} script.py", 0, SUMMARY, [script], files="r.json r.xml r.sarif"),
    Row(f"watch {REPORTS} script.py", 3, "BROKEN", [wrong_script], files="r.json r.xml r.sarif"),
    Row("watch --quiet script.py", 0, "", [script]),
    Row("watch --json - --quiet script.py", 0, "", [script], out='"schema": 1'),
    Row("watch --quiet script.py", 3, "BROKEN", [wrong_script]),
    # What is no script.
    Row("watch absent.py", 2, "there is no script absent.py; options of watch stand before it"),
    Row("watch .", 2, "there is no script ."),
    Row("watch -m absent", 2, "there is no module absent to run; is its folder the current one?"),
    Row("watch -m .", 2, "there is no module . to run"),
    # A script that fails says so itself, in Python's words.
    ends("import sys; sys.exit(7)", 7, "watch: no optimizer step was seen"),
    ends("raise SystemExit('bad')", 1, "bad ... watch: no optimizer step"),
    # Reports that cannot be written.
    Row("watch --json . script.py", 2, "the file .: it is a folder ... --json", [script]),
    Row("watch --junit script.py/r script.py", 2, "cannot write to the file", [script]),
    Row("watch --sarif /proc/r script.py", 2, "cannot write to the file /proc/r", [script]),
    Row(
        "watch --json report script.py",
        0,
        f"{SUMMARY} ... cannot write to the file report: No space left on device",
        [script, text("report"), full_disk],
    ),
]
