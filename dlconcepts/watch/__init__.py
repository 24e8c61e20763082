"""Watch a training script as it is: which laws of the course it breaks, and where.

    python -m dlconcepts watch train.py --epochs 1

    from dlconcepts import watch

    with watch.watching() as report:
        fit(model, loader)
    print(report)

    pytest --dlconcepts-watch

The script does not change, and neither does what it computes: hooks look at forward passes, losses,
backward passes, optimizer steps, schedules, checkpoints and loaders. A law is called broken only
with a proof, such as the loss of the same batch without the fault. A law that had nothing to judge
is "not seen", never passed. `dlconcepts.watch.laws` has the laws, by topic.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlconcepts.watch.report import Finding, Report
    from dlconcepts.watch.run import watching

__all__ = ["Finding", "Report", "watching"]


def __getattr__(name: str) -> Any:
    # pytest imports this package for its plugin in each run; PyTorch only if somebody watches.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dlconcepts.watch import run

    return getattr(run, name)
