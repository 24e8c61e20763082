"""Checks of the figures: each example counts once, in what evaluate returns and in an accuracy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlconcepts.checks.batches import describe
from dlconcepts.checks.laws.validation import evaluated
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import floats, numbers

TOLERANCE = 1e-4  # of a mean that is summed in another order


@law(
    claim="validation.evaluate-goes-over-all-batches",
    concept="Mean of batch means",
    why="the examples of a small last batch count more than the others: the course's own code "
    "reports 0.5 where the truth is 0.8",
    fix="add up loss.item() * len(targets) and correct examples; divide by the number of examples",
    needs=("model", "batch", "targets", "evaluate"),
    reproducer="""
from torch.utils.data import DataLoader, TensorDataset
scores = model.eval()(inputs)
labels = scores.argmax(dim=1)
labels[-2:] = (labels[-2:] + 1) % scores.shape[1]  # only the last two are wrong
results = []
for size in (len(labels), len(labels) - 2):
    result = evaluate(model, DataLoader(TensorDataset(inputs, labels), size), loss_fn)
    result = result.values() if isinstance(result, dict) else result
    results.append(torch.tensor([*result] if hasattr(result, "__iter__") else [result]))
assert torch.allclose(*results, rtol=1e-4)
""",
)
def check_every_example_counts_once(project: Project) -> None:
    """Check that what evaluate returns for two batches is the same as for one, or their fair mean.

    A sum, or a figure of all examples together, is the same however they are cut. Where the model
    or the loss looks at the whole batch, the figures of the batches weigh as their examples do.
    """
    n = project.count()
    if n < 3:
        not_checked("needs a batch of at least 3 examples")
    last = 2 if n > 4 else 1
    first, targets = n - last, half_right(project, last)

    def measure(*batches: tuple[Any, Any], seed: int = 0) -> dict[str, float]:
        model = project.fresh()
        seed_everything(seed)
        return numbers(evaluated(project, model, list(batches)))

    (all_of_them,) = project.batches(n, targets=targets)
    one, other = project.batches(first, last, targets=targets)
    whole, again = measure(all_of_them), measure(all_of_them, seed=1)
    cut, alone, rest = measure(one, other), measure(one), measure(other)
    if not whole:
        not_checked("needs an evaluate that returns numbers")
    for path, value in whole.items():
        if again.get(path) != value or not cut.keys() & alone.keys() & rest.keys() >= {path}:
            continue  # seconds, or chance
        fair = (first * alone[path] + last * rest[path]) / n
        if any(close(cut[path], right) for right in (value, fair)) or cut[path] == 2 * value == 2:
            continue  # the last is a number of batches
        broken(
            f"evaluate returned{path} {value:.4g} for one batch of {n} examples, but "
            f"{cut[path]:.4g} for the same examples in batches of {first} and {last}"
        )


def close(one: float, other: float) -> bool:
    """Return whether two figures are the same but for rounding."""
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def half_right(project: Project, last: int) -> Any:
    """Return targets that the model gets right, but for the last few; as they are if no classes.

    An evaluation that counts the last batch too much cannot hide behind equal figures then.
    """
    targets = project.targets()
    model = project.fresh(training=False)
    with torch.no_grad():
        outputs = list(floats(project.run(model, project.inputs())).values())
    if not isinstance(targets, Tensor) or targets.is_floating_point() or not outputs:
        return targets
    scores = outputs[0]
    if scores.ndim < 2 or scores.shape[1] < 2 or scores.shape[0] != len(targets):
        return targets
    predicted = scores.argmax(dim=1)
    if predicted.shape != targets.shape:
        return targets
    predicted[-last:] = (predicted[-last:] + 1) % scores.shape[1]
    return predicted.to(targets)


@law(
    claim="validation.accuracy-is-the-mean",
    concept="Accuracy that broadcasts",
    why="(N, 1) == (N,) compares every prediction with every label: the mean of N x N comparisons",
    fix="compare shapes that agree: outputs.argmax(dim=1) == targets, both (N,)",
    needs=("accuracy",),
    reproducer="""
outputs, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)  # all six are right
assert float(accuracy(outputs, labels)) in (1, 100, 6)
""",
)
def check_accuracy_counts_each_example(project: Project) -> None:
    """Check that accuracy is 1 where all are right, 0 where none is, and 1/2 where half are."""
    if project.has("model") and project.has("batch"):
        example = shapes_of(project)
        if example is None:
            not_checked("needs one output and targets that are classes, or zeros and ones")
        output, target = example
    else:
        output, target = torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64)
    measured = []
    for share in (1.0, 0.5, 0.0):
        scores, labels = decided(output, target, share)
        found = numbers(project.accuracy(scores, labels))
        if not found:
            not_checked("needs an accuracy that returns a number")
        measured.append(next(iter(found.values())))
    full, half, none = measured
    examples = len(labels)
    tops = (1.0, 100.0, float(examples), float(labels.numel()))
    seen = f"{examples} right predictions of {examples}, of shape {describe(scores)}, against "
    seen += f"targets {describe(labels)}, gave {full:.4g}"
    if not any(abs(full - top) < 1e-6 * top for top in tops):
        broken(seen)
    if abs(half - full / 2) > 1e-6 * full or abs(none) > 1e-6 * full:
        broken(f"{seen}; half of them right {half:.4g}, and none right {none:.4g}")


def shapes_of(project: Project) -> tuple[Tensor, Tensor] | None:
    """Return an output and targets from which to take the shapes, None if they are no classes."""
    model = project.fresh(training=False)
    with torch.no_grad():
        outputs = project.run(model, project.inputs())
    targets = project.targets()
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        return None
    zeros_and_ones = bool(((targets == 0) | (targets == 1)).all())
    if outputs.ndim > 1 and outputs.shape[1] > 1 and not targets.is_floating_point():
        return outputs, targets
    if zeros_and_ones and outputs.numel() == targets.numel():
        return outputs, targets
    return None


def decided(output: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return scores and labels of the given kinds, of which a share is right, beyond doubt.

    Two examples of each class: of every two, both, one or none is right, so that an accuracy
    that is balanced by class agrees.
    """
    several = output.ndim > 1 and output.shape[1] > 1 and not target.is_floating_point()
    classes = min(output.shape[1], 3) if several else 2
    labels = torch.arange(2 * classes) // 2
    right = torch.tensor([share == 1, share >= 0.5] * classes)
    predicted = torch.where(right, labels, (labels + 1) % classes)
    if not several:
        scores = 40.0 * predicted - 20
        return spread(scores, output.shape[1:], output), spread(labels, target.shape[1:], target)
    rows, rest = torch.arange(len(labels)), (2,) * (output.ndim - 2)
    scores = torch.full((len(labels), output.shape[1]), -20.0)
    scores[rows, predicted] = 20.0
    scores[rows[~right], labels[~right]] = -40.0
    return spread(scores, rest, output), spread(labels, rest, target)


def spread(values: Tensor, rest: Sequence[int], like: Tensor) -> Tensor:
    """Return values repeated over further dimensions, as a tensor of the kind of another.

    >>> spread(torch.tensor([1, 2]), (3,), torch.zeros(()))
    tensor([[1., 1., 1.],
            [2., 2., 2.]])
    """
    wide = values[(..., *[None] * len(rest))]
    return wide.repeat(*[1] * values.ndim, *rest).to(like)
