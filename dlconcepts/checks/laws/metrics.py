"""Checks of the figures: each example counts once, in evaluate and in accuracy."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlconcepts.checks.batches import describe
from dlconcepts.checks.laws.forward import at_least
from dlconcepts.checks.laws.loss import is_binary
from dlconcepts.checks.laws.validation import evaluated
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import floats, numbers

TOLERANCE = 1e-4  # a float32 mean that is summed in another order differs by less


@law(
    claim="validation.evaluate-goes-over-all-batches",
    concept="Mean of batch means",
    why="examples of a small last batch count more: the course's code says 0.5, the truth is 0.8",
    fix="add up loss.item() * len(targets) and correct examples; divide by the number of examples",
    needs=("model", "batch", "evaluate"),
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
    """Check that evaluate returns the same for one batch and for two, or their weighted mean."""
    n = at_least(project, 3)
    last = 2 if n > 4 else 1
    first, targets = n - last, right_but_for(project, last)

    def measure(*batches: Any, seed: int = 0) -> dict[str, float]:
        model = project.fresh()
        seed_everything(seed)
        return numbers(evaluated(project, model, list(batches)))

    (all_of_them,) = project.batches(n, targets=targets)
    one, other = project.batches(first, last, targets=targets)
    whole, again = measure(all_of_them), measure(all_of_them, seed=1)
    cut, alone, rest = measure(one, other), measure(one), measure(other)
    if not whole:
        not_checked("needs an evaluate that returns numbers")
    judged = 0
    for path, value in whole.items():
        if again.get(path) != value or any(path not in figures for figures in (cut, alone, rest)):
            continue  # a time, or a number that depends on chance
        judged += 1
        # If the model or the loss looks at the whole batch, only the weighted mean is the same.
        fair = (first * alone[path] + last * rest[path]) / n
        same = any(math.isclose(cut[path], x, rel_tol=TOLERANCE) for x in (value, fair))
        counts_batches = cut[path] == 2 * value == 2
        if not same and not counts_batches:
            broken(
                f"evaluate returned{path} {value:.4g} for one batch of {n} examples, but "
                f"{cut[path]:.4g} for the same examples in batches of {first} and {last}"
            )
    if not judged:
        not_checked("needs an evaluate whose figures are the same for the same examples")


def right_but_for(project: Project, last: int) -> Any:
    """Return targets that the model gets right, except the last few; unchanged if not classes."""
    # Equal figures in all batches would hide that the last one counts too much.
    _, targets = project.split(project.whole())
    scores = next(iter(floats(project.outputs()).values()), None)
    if scores is None or not isinstance(targets, Tensor) or not has_classes(scores, targets):
        return targets
    predicted = scores.argmax(dim=1)
    if predicted.shape != targets.shape:
        return targets
    predicted[-last:] = (predicted[-last:] + 1) % scores.shape[1]
    return predicted.to(targets)


def has_classes(scores: Tensor, targets: Tensor) -> bool:
    """Return whether each example has a score for each of several classes, and one label."""
    return scores.ndim > 1 and scores.shape[1] > 1 and not targets.is_floating_point()


@law(
    claim="validation.accuracy-is-the-mean",
    concept="Accuracy that broadcasts",
    why="(N, 1) == (N,) compares every prediction with every label: the mean of N x N comparisons",
    fix="compare equal shapes: outputs.argmax(dim=1) == targets, both (N,)",
    needs=("accuracy",),
    reproducer="""
outputs, labels = torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)  # all six are right
assert float(accuracy(outputs, labels)) in (1, 100, 6)
""",
)
def check_accuracy_counts_each_example(project: Project) -> None:
    """Check that accuracy is 1 if all predictions are right, 0 if none is, and 1/2 if half are."""
    if project.has("model") and project.has("batch"):
        output, (_, target) = project.outputs(), project.split(project.whole())
        are_tensors = isinstance(output, Tensor) and isinstance(target, Tensor)
        if not are_tensors or not (has_classes(output, target) or is_binary(output, target)):
            not_checked("needs one output and targets that are classes, or zeros and ones")
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
    n = len(labels)
    seen = f"{n} right predictions of {n}, of shape {describe(scores)}, against targets "
    seen += f"{describe(labels)}, gave {full:.4g}"
    tops = (1.0, 100.0, float(n), float(labels.numel()))  # a share, per cent, or a number
    if not any(abs(full - top) < 1e-6 * top for top in tops):
        broken(seen)
    if abs(half - full / 2) > 1e-6 * full or abs(none) > 1e-6 * full:
        broken(f"{seen}; half of them right {half:.4g}, and none right {none:.4g}")


def decided(output: Tensor, target: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return scores and labels shaped as a model's, of which a share is clearly right."""
    # Two examples of each class, of which both, one or none is right: an accuracy that is balanced
    # by class must agree.
    classes = min(output.shape[1], 3) if has_classes(output, target) else 2
    labels = torch.arange(2 * classes) // 2
    right = torch.tensor([share == 1, share >= 0.5] * classes)
    predicted = torch.where(right, labels, (labels + 1) % classes)
    if not has_classes(output, target):
        scores = 40.0 * predicted - 20
        return spread(scores, output.shape[1:], output), spread(labels, target.shape[1:], target)
    chosen, known = (F.one_hot(x, output.shape[1]) for x in (predicted, labels))
    scores = 40.0 * chosen - 20.0 * (known & ~right[:, None]) - 20.0
    rest = (2,) * (output.ndim - 2)
    return spread(scores, rest, output), spread(labels, rest, target)


def spread(values: Tensor, rest: Sequence[int], like: Tensor) -> Tensor:
    """Return values repeated over further dimensions, in the dtype and on the device of `like`."""
    wide = values.reshape(*values.shape, *[1] * len(rest))
    return wide.repeat(*[1] * values.ndim, *rest).to(like)
