"""`watch` accepts the correct projects of the gallery as scripts, and names mistakes of it.

`benchmarks/watch.py --gallery` runs all of it, and says how many are named.
"""

import pytest

from tests import gallery
from tests.watch.running import ROOT
from tests.watch.scripts import controls, laws_of, script

EACH = 6  # one of so many
NAMED = (
    *("layers_in_a_plain_list", "a_layer_made_in_forward"),
    *("gradients_never_zeroed", "only_the_head_is_zeroed"),
)


@pytest.mark.parametrize("name", sorted(controls())[::EACH])
def test_a_correct_project_breaks_no_law(runner, name, tmp_path) -> None:
    """No law is called broken in a correct project."""
    run = runner.run(script(controls()[name]), tmp_path, root=ROOT)

    assert [(found["law"], found["message"]) for found in run.broken()] == []
    assert run.status == 0, run.errors


@pytest.mark.parametrize(
    "mistake", [m for m in gallery.MISTAKES if m.name in NAMED], ids=lambda m: m.name
)
def test_a_mistake_is_named(runner, mistake, tmp_path) -> None:
    """A law that stands for the mistake is called broken."""
    run = runner.run(script(mistake.wrong, mistake.check), tmp_path, root=ROOT)

    assert {found["law"] for found in run.broken()} & laws_of(mistake)
    assert run.status == 3
