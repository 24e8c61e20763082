"""Lesson 5, inference and validation: how well a model does on examples it was not trained on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlconcepts.loading import batches
from dlconcepts.support.runs import find_model_device

Data = tuple[Tensor, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]

# The exponentials of log-probabilities sum to 1, but for rounding (3 % in bfloat16 with a thousand
# classes). Those of probabilities sum to more than the number of classes.
SUM_TOLERANCE = 0.1


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of the examples, and the share of them, in [0, 1], predicted rightly."""

    loss: float
    accuracy: float


def hold_out(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Split examples at random into those to train on and those held out.

    `data` is a pair of N images and N labels. `size` is the number of examples held out, from 1 to
    N - 1, or their share, a float in (0, 1), rounded to a whole number of examples. The same seed
    gives the same split; PyTorch's global random state is left alone.

    Raises ValueError if no example would be left in one of the parts, and for images and labels
    of different number.
    Source: PyTorch documentation, `torch.utils.data.random_split`.

    >>> examples, held_out = hold_out((torch.zeros(5, 28, 28), torch.arange(5)), 0.4)
    >>> len(examples[1]), len(held_out[1])
    (3, 2)
    """
    images, labels = data
    n = len(labels)
    if len(images) != n:
        raise ValueError(f"there are {len(images)} images but {n} labels")
    if n < 2:
        raise ValueError(f"two parts need at least 2 examples, but there are {n}")
    if isinstance(size, float) and not 0 < size < 1:
        raise ValueError(f"a share lies between 0 and 1, but size is {size}")
    held = round(size * n) if isinstance(size, float) else size
    if not 1 <= held < n:
        raise ValueError(
            f"of {n} examples, 1 to {n - 1} can be held out, but size={size} asks for {held}"
        )
    generator = torch.Generator(device="cpu").manual_seed(seed)
    order = torch.randperm(n, generator=generator, device="cpu").to(labels.device)
    # One permutation, cut once: drawn twice, the parts would overlap.
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
    """Return the negative log-likelihood of the log-softmax of logits: the cross-entropy.

    Logits: floating point of shape (N, K) or (N, K, ...); the rest is as in `nll_loss`.

    Raises an error as `check_labels` does.
    Source: PyTorch documentation, `torch.nn.CrossEntropyLoss`, which does both at once.

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
    """Return the negative log-likelihood of the labels, after a look at what comes in.

    Log-probabilities: floating point of shape (N, K) or (N, K, ...). Labels: int64 of shape (N,)
    or (N, ...), in [0, K) or `ignore_index`. `weight`: shape (K,), one weight for each class; the
    mean divides by the sum of the labels' weights. `reduction` is "mean", "sum" or "none".

    Raises ValueError for probabilities or logits in the place of log-probabilities, and as
    `check_labels` does.
    Source: PyTorch documentation, `torch.nn.NLLLoss`, which takes any numbers.

    >>> probabilities = torch.tensor([[0.25, 0.75]])
    >>> nll_loss(probabilities.log(), torch.tensor([1]))
    tensor(0.2877)
    >>> nll_loss(probabilities, torch.tensor([1]))
    Traceback (most recent call last):
    ...
    ValueError: these are probabilities, not their logarithms: give log_softmax of the logits
    """
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    values = log_probabilities.detach().float()
    if bool(((values.exp().sum(dim=1) - 1).abs() > SUM_TOLERANCE).any()):
        positive = bool((values >= 0).all())
        sums_to_one = bool(((values.sum(dim=1) - 1).abs() <= SUM_TOLERANCE).all())
        found = (
            "probabilities, not their logarithms"
            if positive and sums_to_one
            else ("no log-probabilities, since their exponentials do not sum to 1")
        )
        raise ValueError(f"these are {found}: give log_softmax of the logits")
    return F.nll_loss(
        log_probabilities, labels, weight, ignore_index=ignore_index, reduction=reduction
    )


def check_labels(labels: Tensor, scores: Tensor, *, ignore_index: int | None = None) -> None:
    """Raise an error unless there is a label for each example, the position of a class.

    Scores: shape (N, K) or (N, K, ...). Labels: int64 of shape (N,) or (N, ...), in [0, K).

    Raises TypeError for another dtype; ValueError for another shape, no label that counts, or a
    label outside the classes, which on a GPU would end the process's use of it.

    >>> check_labels(torch.tensor([2]), torch.zeros(1, 2))
    Traceback (most recent call last):
    ...
    ValueError: the label 2 is none of the 2 classes, numbered from 0 to 1
    """
    if labels.dtype != torch.int64:
        raise TypeError(f"labels are positions of classes, int64, but these are {labels.dtype}")
    if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise ValueError(
            f"scores of shape {tuple(scores.shape)} need one label for each example, but the "
            f"labels have the shape {tuple(labels.shape)}"
        )
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    if counted.numel() == 0:
        raise ValueError("there are no examples")
    classes = scores.shape[1]
    outside = counted[(counted < 0) | (counted >= classes)]
    if outside.numel():
        raise ValueError(
            f"the label {int(outside[0])} is none of the {classes} classes, "
            f"numbered from 0 to {classes - 1}"
        )


def correct(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return whether each prediction is right, bool of the shape of both arguments.

    Raises ValueError if the shapes differ, since (N, 1) == (N,) would broadcast to (N, N), and
    TypeError for floats, which are scores and no classes.
    Source: PyTorch documentation, "Broadcasting semantics" and `torch.eq`.

    >>> correct(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    tensor([ True,  True, False])
    """
    if predictions.is_floating_point() or labels.is_floating_point():
        raise TypeError(
            f"classes are integers, but these are {predictions.dtype} and {labels.dtype}: "
            "take the argmax of scores"
        )
    if predictions.shape != labels.shape:
        raise ValueError(
            f"predictions of shape {tuple(predictions.shape)} and labels of shape "
            f"{tuple(labels.shape)} would broadcast: bring both to one shape, with squeeze(1)"
        )
    return predictions == labels


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of the examples, in [0, 1], whose largest score is that of their label.

    Scores: shape (N, K), logits or probabilities alike; of equal scores the first counts. Labels:
    int64 of shape (N,).

    Raises an error as `check_labels` does.

    >>> accuracy(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    0.5
    """
    check_labels(labels, scores)
    # A bool tensor has no mean; a sum of integers is exact, however many there are.
    return int(correct(scores.argmax(dim=1), labels).sum()) / labels.numel()


def confusion_matrix(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the examples of each class, a row, by what they were taken for, a column.

    Predictions and labels: int64 of shape (N,), in [0, classes). Output: int64, (classes, classes).

    Raises as `correct` does, and ValueError for a number that is none of the classes.

    >>> confusion_matrix(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), classes=2)
    tensor([[1, 1],
            [0, 1]])
    """
    correct(predictions, labels)
    both = torch.cat([predictions, labels])
    if bool(((both < 0) | (both >= classes)).any()):
        raise ValueError(f"the classes are 0 to {classes - 1}, but there are others")
    return torch.bincount(labels * classes + predictions, minlength=classes**2).view(classes, -1)


def class_accuracies(confusion: Tensor) -> Tensor:
    """Return the share of each class's examples predicted rightly, NaN for a class without any.

    Input: a confusion matrix (K, K), rows for the labels. Output: float32 of shape (K,).

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
    """Measure the loss and the accuracy of a model, each example counting once.

    Images of shape (N, ...), uint8 or floating point, and labels of shape (N,), int64. `loss_fn`
    takes logits and labels and returns the mean of a batch, cross-entropy by default. How the
    examples are cut into batches, a thousand in each, does not matter. Dropout and the like are off
    meanwhile; the model and the random state come back as they were, also when something raises.

    Raises an error as `dlconcepts.loading.batches` and `check_labels` do.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> data = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]), torch.tensor([1, 0, 1])
    >>> round(evaluate(nn.Identity(), data, batch_size=2).accuracy, 3)
    0.667
    """
    loss_fn = loss_fn or F.cross_entropy
    total_loss, right, device = 0.0, 0, find_model_device(model)
    generators = [] if device.type == "cpu" else [device]
    # What a model draws even in eval mode must not shift the random numbers of the training.
    with inference(model), torch.random.fork_rng(generators, device_type=device.type):
        for images, labels in batches(data, batch_size, device=device):
            logits = model(images)
            check_labels(labels, logits)
            # The last batch may be smaller: a mean of batch means would count its examples more.
            total_loss += loss_fn(logits, labels).item() * len(labels)
            right += int(correct(logits.argmax(dim=1), labels).sum())
    return Evaluation(total_loss / len(data[1]), right / len(data[1]))


def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class probabilities of a batch of normalised images, on the CPU.

    Input: floating point of shape (N, ...). Output: shape (N, K); each row sums to 1. The model
    returns logits and comes back as it was.
    Source: PyTorch documentation, "Save, Load and Use Model" and `torch.softmax`.

    >>> predict(nn.Identity(), torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000]])
    """
    with inference(model):
        logits: Tensor = model(images.to(find_model_device(model)))
        return logits.softmax(dim=1).cpu()


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into eval mode without gradients, and each of its modules back as it was.

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
        # Under torch.inference_mode, what a module keeps for later could not be trained on.
        with torch.no_grad():
            yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training
