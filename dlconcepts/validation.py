"""Lesson 5, inference and validation: how well a model does on examples it has not seen."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlconcepts.autograd import LossFunction
from dlconcepts.loading import batches
from dlconcepts.support.runs import find_model_device

Data = tuple[Tensor, Tensor]

# exp(log-probabilities) sums to 1, give or take 3 % of rounding in bfloat16 with 1,000 classes.
# exp(probabilities) sums to more than the number of classes, so a wide tolerance is safe.
SUM_TOLERANCE = 0.1


@dataclass(frozen=True)
class Evaluation:
    """The mean loss over the examples, and the fraction predicted correctly, in [0, 1]."""

    loss: float
    accuracy: float


def hold_out(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Split examples at random into a training set and a held-out set.

    `data` is a pair of N images and N labels. `size` is the number of examples to hold out, from 1
    to N - 1, or a fraction, a float in (0, 1), rounded as by `round` to a whole number of examples.
    Each example is held out equally often over many seeds, in any order. The same seed gives the
    same split, another seed another. PyTorch's global random state does not change.

    Raises ValueError if either part would be empty, or if there is not one label per image.
    Source: PyTorch documentation, `torch.utils.data.random_split`.

    >>> examples, held_out = hold_out((torch.zeros(5, 28, 28), torch.arange(5)), 0.4)
    >>> len(examples[1]), len(held_out[1])
    (3, 2)
    """
    images, labels = data
    n = len(labels)
    if len(images) != n:
        raise ValueError(f"there are {len(images)} images but {n} labels: give one per image")
    if n < 2:
        raise ValueError(f"a split needs at least 2 examples, but there are {n}")
    if isinstance(size, float) and not 0 < size < 1:
        raise ValueError(f"a fraction to hold out is between 0 and 1, but size={size}")
    held = round(size * n) if isinstance(size, float) else size
    if not 1 <= held < n:
        raise ValueError(
            f"size={size} would hold out {held} of {n} examples: hold out 1 to {n - 1}"
        )
    generator = torch.Generator(device="cpu").manual_seed(seed)
    order = torch.randperm(n, generator=generator, device="cpu").to(labels.device)
    # Cut one permutation: parts from two permutations would overlap.
    parts = order[held:], order[:held]
    examples, held_out = ((images[part.to(images.device)], labels[part]) for part in parts)
    return examples, held_out


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy: the negative log-likelihood of the log-softmax of the logits.

    Logits: floating point of shape (N, K) or (N, K, ...). For the other arguments, see
    `nll_loss`.

    Raises the errors of `check_labels`.
    Source: PyTorch documentation, `torch.nn.CrossEntropyLoss`, which does both in one call.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931)
    """
    check_labels(labels, logits, ignore_index=ignore_index)
    log_probabilities = F.log_softmax(logits, dim=1)
    return nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of the labels; refuse scores that are not logarithms.

    Log-probabilities: floating point of shape (N, K) or (N, K, ...). Labels: int64 of shape (N,)
    or (N, ...), in [0, K) or `ignore_index`. `weight`: shape (K,), one weight per class; the mean
    divides by the sum of the labels' weights. `reduction` is "mean", "sum" or "none".

    Raises ValueError if the scores are probabilities or logits: if their exp, summed over the K
    classes, is not 1 within `SUM_TOLERANCE`, also where the label is ignored. Raises the errors of
    `check_labels`.
    Source: PyTorch documentation, `torch.nn.NLLLoss`, which accepts any numbers.

    >>> probabilities = torch.tensor([[0.25, 0.75]])
    >>> nll_loss(probabilities.log(), torch.tensor([1]))
    tensor(0.2877)
    >>> nll_loss(probabilities, torch.tensor([1]))
    Traceback (most recent call last):
    ...
    ValueError: nll_loss got probabilities: pass the log_softmax of the logits
    """
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    values = log_probabilities.detach().float()
    if bool(((values.exp().sum(dim=1) - 1).abs() > SUM_TOLERANCE).any()):
        positive = bool((values >= 0).all())
        sums_to_one = bool(((values.sum(dim=1) - 1).abs() <= SUM_TOLERANCE).all())
        found = (
            "probabilities" if positive and sums_to_one else "scores whose exp does not sum to 1"
        )
        raise ValueError(f"nll_loss got {found}: pass the log_softmax of the logits")
    # PyTorch's backward of (N, K, ...) refuses log-probabilities in another layout.
    scores = log_probabilities.contiguous()
    return F.nll_loss(scores, labels, weight, ignore_index=ignore_index, reduction=reduction)


def check_labels(labels: Tensor, scores: Tensor, *, ignore_index: int | None = None) -> None:
    """Raise an error unless the labels are one class index for each example.

    Scores: shape (N, K) or (N, K, ...). Labels: int64 of shape (N,) or (N, ...), in [0, K) or
    `ignore_index`.

    Raises TypeError for another dtype; ValueError for another shape, if no label is left to count,
    or for a label outside the classes. CUDA would answer the last with an assertion, after which
    the process cannot use the GPU any more.

    >>> check_labels(torch.tensor([2]), torch.zeros(1, 2))
    Traceback (most recent call last):
    ...
    ValueError: label 2 is out of range: the 2 classes are numbered 0 to 1
    """
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be class indices of dtype int64, not {labels.dtype}")
    if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} need one label for each example, but the "
            f"labels have shape {tuple(labels.shape)}"
        )
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    if counted.numel() == 0:
        raise ValueError("there are no examples whose label counts")
    classes = scores.shape[1]
    outside = counted[(counted < 0) | (counted >= classes)]
    if outside.numel():
        raise ValueError(
            f"label {int(outside[0])} is out of range: the {classes} classes are numbered "
            f"0 to {classes - 1}"
        )


def correct(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return whether each prediction is right: a bool tensor of the shape of both arguments.

    Raises ValueError if the shapes differ, because (N, 1) == (N,) would broadcast to (N, N), and
    TypeError for floats, which are scores rather than classes.
    Source: PyTorch documentation, "Broadcasting semantics" and `torch.eq`.

    >>> correct(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    tensor([ True,  True, False])
    """
    if predictions.is_floating_point() or labels.is_floating_point():
        raise TypeError(
            f"classes are integers, but these are {predictions.dtype} and {labels.dtype}: "
            "take the argmax of the scores"
        )
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions of shape {tuple(predictions.shape)} and labels of shape "
            f"{tuple(labels.shape)} would broadcast: give both one shape, as squeeze(1) does"
        )
    return predictions == labels


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the fraction of examples, in [0, 1], whose label has the largest score.

    Scores: shape (N, K), logits or probabilities; if scores tie, the first class is the prediction.
    Labels: int64 of shape (N,).

    Raises the errors of `check_labels`.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    check_labels(labels, scores)
    # A bool tensor has no mean, and a float32 mean rounds; the sum of integers is exact.
    return int(correct(scores.argmax(dim=1), labels).sum()) / labels.numel()


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the examples by label (the row) and prediction (the column).

    Predictions and labels: int64 of shape (N,), in [0, classes). Output: int64, (classes, classes).

    Raises the errors of `correct`, and ValueError for a number outside the classes.

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), classes=2)
    tensor([[1, 1],
            [0, 1]])
    """
    correct(predictions, labels)
    both = torch.cat([predictions, labels])
    if bool(((both < 0) | (both >= classes)).any()):
        raise ValueError(f"predictions and labels must be classes from 0 to {classes - 1}")
    # Number the cells row by row: a pair (label, prediction) is then one integer to count.
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, -1)


def class_accuracies(confusion: Tensor) -> Tensor:
    """Return the fraction of each class's examples predicted correctly; NaN if it has none.

    Input: a confusion matrix (K, K) with a row for each label. Output: float32 of shape (K,).

    >>> class_accuracies(torch.tensor([[1, 1], [0, 1]]))
    tensor([0.5000, 1.0000])
    """
    return confusion.diagonal() / confusion.sum(dim=1)


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Measure the loss and the accuracy of a model; every example counts once.

    Images of shape (N, ...), floating point, or uint8, which `batches` normalises, and labels of
    shape (N,), int64. `loss_fn` is called once, with all logits and labels; the default is
    cross-entropy. The accuracy counts every example, also if the loss ignores some. The result does
    not depend on `batch_size`. The model runs in eval mode without gradients. The mode of each
    module and PyTorch's random states, of the CPU and of the model's device, are restored
    afterwards, even after an error.

    Raises the errors of `dlconcepts.loading.batches` and `check_labels`.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> data = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]), torch.tensor([1, 0, 1])
    >>> round(evaluate(nn.Identity(), data, batch_size=2).accuracy, 3)
    0.667
    """
    loss_fn = loss_fn or F.cross_entropy
    device = find_model_device(model)
    labels = data[1].to(device)
    generators = [] if device.type == "cpu" else [device]
    # A model that draws random numbers in eval mode must not disturb the training.
    with inference(model), torch.random.fork_rng(generators, device_type=device.type):
        # Losses of batches do not add up: each mean has a divisor that only the loss knows.
        logits = torch.cat(
            [model(images) for images, _ in batches(data, batch_size, device=device)]
        )
        right = accuracy(logits, labels)
        return Evaluation(loss_fn(logits, labels).item(), right)


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class probabilities of a batch of normalised images, on the CPU.

    Input: floating point of shape (N, ...). Output: shape (N, K) without a graph; each row sums
    to 1. The model returns logits; the mode of each module is restored, even after an error.
    Source: PyTorch documentation, "Save, Load and Use Model" and `torch.softmax`.

    >>> predict(nn.Identity(), torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000]])
    """
    with inference(model):
        logits: Tensor = model(images.to(find_model_device(model)))
        return logits.softmax(dim=1).cpu()


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """Run a block with the model in eval mode and gradients off; then restore each module's mode.

    The modes are restored after an error too.
    Source: PyTorch documentation, "Autograd mechanics": eval mode and no-grad mode are separate.

    >>> model = nn.Dropout()
    >>> with inference(model):
    ...     model(torch.ones(3))
    tensor([1., 1., 1.])
    >>> model.training
    True
    """
    modes = {module: module.training for module in model.modules()}
    try:
        # Not torch.inference_mode: autograd refuses tensors that a module caches under it.
        with torch.no_grad():
            yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training
