"""`claims`."""

from pathlib import Path

from tests.cli.rows import Row
from tests.cli.rows.given import setting, variable

CLAIM = "tensors.view-is-a-new-tensor"
MODULES = ("cli.claims", "testing.run")
MISSING = [setting(f"dlconcepts.{module}.TESTS", Path("absent")) for module in MODULES]
ROWS = [
    Row("claims", 0, out="holds ... tensors."),
    Row("claims", 0, out="tensors.", to="ascii"),
    Row("claims", 141, to="closed pipe"),
    Row("claims", 2, "No space left on device", to="full disk"),
    Row("claims --lesson tensors", 0, out="tensors."),
    Row("claims --json", 0, out='"id": "tensors.'),
    Row("claims --quiet", 0),
    Row("claims", 0, given=[variable("COLUMNS", "40"), variable("NO_COLOR", "1")], out="holds"),
    Row(f"claims {CLAIM}", 0, out="Notes: ... Verdict: corrected ... Law: ... python -m pytest"),
    Row(f"claims {CLAIM}", 0, out="Notes: ", to="ascii"),
    Row(f"claims {CLAIM} --json", 0, out=f'"id": "{CLAIM}"'),
    Row("claims tensors.view-is-new-tensor", 2, f"did you mean {CLAIM} or "),
    Row("claims view-is-a-new-tensor", 2, f"did you mean {CLAIM}?"),
    Row("claims cake", 2, "there is no claim 'cake'; `claims` lists them all"),
    Row(f"claims {CLAIM} --lesson networks", 2, f"there is no claim '{CLAIM}'"),
    Row("claims", 2, "clone the repository and run `pip install -e .`", MISSING),
]
