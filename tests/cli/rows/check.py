"""`check`."""

from tests.cli.rows import Given, Row
from tests.cli.rows.given import full_disk, project, text

LOGITS = "cross-entropy-is-given-logits"
GOOD = "check project:good"
# There is nowhere so much memory, and each shape fails in another way.
HUGE = ("4x3x9999999999", "9999999999999x9999999999999", f"4x{'9' * 30}")
UNFIT = "no check could run; does the batch fit the model?"
REPORTS = "--json r.json --junit r.xml"


def refused(line: str, says: str, *given: Given, out: str = "") -> Row:
    return Row(f"check {line}", 2, says, [project, *given], out=out)


ROWS = [
    Row(GOOD, 0, given=[project], out="passed"),
    Row(GOOD, 0, given=[project], out="passed", to="ascii"),
    Row(GOOD, 141, given=[project], to="closed pipe"),
    Row(GOOD, 2, "No space left on device", [project], to="full disk"),
    Row(f"{GOOD} {REPORTS}", 0, given=[project], out="passed", files="r.json r.xml"),
    Row(f"{GOOD} --quiet --json -", 0, given=[project], out='"ok": true'),
    Row(f"{GOOD} --json deep/r.json", 0, given=[project], out="passed", files="deep/r.json"),
    Row("check project:wrong", 1, given=[project], out="FAILED"),
    Row(f"check project:wrong {REPORTS}", 1, given=[project], out="FAILED", files="r.json r.xml"),
    Row(f"check project:wrong --except {LOGITS}=why", 0, given=[project], out="excepted"),
    Row("check project:model --batch 6x4", 0, given=[project], out="passed"),
    Row("check project:model --batch project:batch", 0, given=[project], out="passed"),
    Row("check torch.nn:Identity --batch 2x3", 0, out="passed"),
    # What is no project.
    refused("project", "'project' does not have the form package.module:factory"),
    refused(":good", "':good' does not have the form package.module:factory"),
    refused("project:", "'project:' does not have the form package.module:factory"),
    refused("absent:good", "absent cannot be imported: ModuleNotFoundError"),
    refused("project:absent", "project has no absent"),
    refused("project:good.x", "project has no good.x"),
    refused("project:number", "gives a int; it has to be a model, or a dictionary of parts"),
    refused("project:batch", "gives a tuple; it has to be a model"),
    refused("project:raises", "raised KeyError ... no such layer ... details"),
    refused("broken:good", "broken cannot be imported ... details", text("broken.py", "1 / 0")),
    refused("broken:good", "broken cannot be imported: SyntaxError", text("broken.py", "def")),
    refused(
        "ends:good", "ends cannot be imported: SystemExit", text("ends.py", "raise SystemExit")
    ),
    refused("project:goood", "project has no goood; did you mean good?"),
    # What is no batch.
    refused("project:narrow", UNFIT, out="6x5 and 4x3"),
    refused("project:model --batch 6x5", UNFIT, out="model raised RuntimeError"),
    refused("project:model", "nothing could be checked: give --batch, or more parts"),
    refused("project:model --batch 4x0", "--batch 4x0 is neither a shape such as"),
    refused("project:model --batch four", "--batch four is neither a shape such as"),
    refused("project:model --batch 4x-3", "--batch 4x-3 is neither a shape such as"),
    refused("project:model --batch project:absent", "project has no absent"),
    refused("project:model --batch project:raises", "project:raises() raised KeyError"),
    *(Row(f"check torch.nn:Identity --batch {s}", 2, "is too large for the memory") for s in HUGE),
    # Exceptions.
    refused("project:good --except x", "--except x lacks the reason: --except x=REASON"),
    refused("project:good --except x=why", "'x', which is no check"),
    refused("project:good --except examples-stay-apart=", "needs the reason"),
    # Reports that cannot be written, before the work.
    refused("project:good --json .", "the file .: it is a folder ... --json"),
    refused("project:good --junit .", "the file .: it is a folder ... --junit"),
    refused("project:good --json project.py/r", "cannot write to the file project.py/r"),
    refused("project:good --junit project.py/r", "cannot write to the file project.py/r"),
    refused("project:good --json /proc/r", "cannot write to the file /proc/r"),
    # A disk that fills meanwhile: the old report stays, and the new one is printed.
    *(
        Row(
            f"{GOOD} {option} report",
            2,
            f"cannot write to the file report: No space left on device ... {option}",
            [project, text("report"), full_disk],
            out="passed",
        )
        for option in ("--json", "--junit")
    ),
]
