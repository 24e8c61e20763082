"""`parity`."""

import torch

from dlconcepts.parity import comparison
from tests.cli.rows import Row
from tests.cli.rows.given import full_disk, setting, text, variable

NAMES = ("transforms",)
# One technique in one dtype on one probe, so that a table takes a moment.
quick = [
    setting("dlconcepts.parity.measure.TECHNIQUES", {n: comparison.TECHNIQUES[n] for n in NAMES}),
    setting("dlconcepts.parity.comparison.DTYPES", (torch.float16,)),
    setting("dlconcepts.parity.measure.PROBES", ("blank",)),
]
narrow = [variable("COLUMNS", "40"), variable("TERM", "dumb")]
ROWS = [
    Row("parity --eager", 0, given=quick, out="compiled: skipped ... float16 ... transforms"),
    Row("parity --eager", 0, given=quick, out="float16", to="ascii"),
    Row("parity --eager", 141, given=quick, to="closed pipe"),
    Row("parity --eager", 2, "No space left on device", quick, to="full disk"),
    Row("parity --eager --json r.json", 0, given=quick, out="transforms", files="r.json"),
    Row("parity --eager", 0, given=[*quick, *narrow], out="transforms"),
    Row("parity --device gpu", 2, "unknown device 'gpu'"),
    Row("parity --device xpu", 2, "device 'xpu' is not available"),
    Row("parity --json .", 2, "the file .: it is a folder ... --json"),
    Row("parity --eager --json deep/r.json", 0, given=quick, files="deep/r.json"),
    Row("parity --json note/r", 2, "cannot write to the file note/r", [text("note")]),
    Row("parity --eager --quiet --json -", 0, given=quick, out='"schema": 1'),
    Row(
        "parity --eager --json report",
        2,
        "cannot write to the file report: No space left on device ... --json",
        [*quick, text("report"), full_disk],
        out="transforms",
    ),
]
