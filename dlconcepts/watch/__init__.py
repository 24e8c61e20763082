"""Watch a training script as it is: which laws of the course it breaks, and where.

    python -m dlconcepts watch train.py --epochs 1

    from dlconcepts import watch

    with watch.watching() as report:
        fit(model, loader)
    print(report)

The script does not change, and neither does what it computes: hooks look at forward passes, losses,
backward passes, optimizer steps, schedules, checkpoints and loaders. A law is called broken only
with a proof, such as the loss of the same batch without the fault. A law that had nothing to judge
is "not seen", never passed. See `dlconcepts.watch.laws` for the laws, a file each.
"""

from dlconcepts.watch.report import Finding, Report
from dlconcepts.watch.run import watching

__all__ = ["Finding", "Report", "watching"]
