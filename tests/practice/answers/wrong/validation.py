"""Wrong answers to the exercises of lesson 5, validation, as learners write them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts.autograd import LossFunction
from dlconcepts.loading import batches
from dlconcepts.support.runs import find_model_device
from dlconcepts.validation import Data, Evaluation, accuracy, check_labels, inference


def _forked(model: nn.Module) -> torch.random.fork_rng:
    device = find_model_device(model)
    return torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type)


def _run(model: nn.Module, data: Data, batch_size: int) -> tuple[Tensor, Tensor]:
    pairs = [(model(x), y) for x, y in batches(data, batch_size, device=find_model_device(model))]
    logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return logits, labels


def evaluate__mean_of_batch_means(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Average the batches' losses, so a small last batch weighs as much as a full one."""
    loss_fn = loss_fn or F.cross_entropy
    losses, logits, targets = [], [], []
    with _forked(model), inference(model):
        for images, labels in batches(data, batch_size, device=find_model_device(model)):
            output = model(images)
            check_labels(labels, output)
            losses.append(loss_fn(output, labels).item())
            logits.append(output)
            targets.append(labels)
    return Evaluation(sum(losses) / len(losses), accuracy(torch.cat(logits), torch.cat(targets)))


def evaluate__leaves_eval_mode(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Call eval and never go back to train mode."""
    model.eval()
    with _forked(model), torch.no_grad():
        logits, labels = _run(model, data, batch_size)
        check_labels(labels, logits)
        loss = (loss_fn or F.cross_entropy)(logits, labels)
    return Evaluation(loss.item(), accuracy(logits, labels))


def evaluate__in_train_mode(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Take no_grad for eval mode, so dropout stays on."""
    with _forked(model), torch.no_grad():
        logits, labels = _run(model, data, batch_size)
        check_labels(labels, logits)
        loss = (loss_fn or F.cross_entropy)(logits, labels)
    return Evaluation(loss.item(), accuracy(logits, labels))


def evaluate__modes_lost_after_an_error(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Restore the modes without finally, so an error leaves the model in eval mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with _forked(model), torch.no_grad():
        logits, labels = _run(model, data, batch_size)
        check_labels(labels, logits)
        loss = (loss_fn or F.cross_entropy)(logits, labels)
    for module, mode in modes.items():
        module.training = mode
    return Evaluation(loss.item(), accuracy(logits, labels))


def evaluate__with_gradients(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Set eval mode but record the graph of every batch."""
    modes = {module: module.training for module in model.modules()}
    try:
        with _forked(model):
            model.eval()
            logits, labels = _run(model, data, batch_size)
            check_labels(labels, logits)
            loss = (loss_fn or F.cross_entropy)(logits, labels)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return Evaluation(loss.item(), accuracy(logits, labels))


def evaluate__ignores_the_loss(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Compute cross-entropy whatever `loss_fn` is."""
    with _forked(model), inference(model):
        logits, labels = _run(model, data, batch_size)
        check_labels(labels, logits)
        return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def evaluate__draws_random_numbers(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Use a DataLoader, which draws a seed from the global generator at each start."""
    next(batches(data, batch_size))
    everything = next(batches(data, len(data[1])))
    device = find_model_device(model)
    with inference(model):
        loader = DataLoader(TensorDataset(*everything), batch_size=batch_size)
        pairs = [(model(images.to(device)), labels.to(device)) for images, labels in loader]
        logits, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        check_labels(labels, logits)
        loss = (loss_fn or F.cross_entropy)(logits, labels)
    return Evaluation(loss.item(), accuracy(logits, labels))


def evaluate__drops_the_last_batch(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Count only full batches when there is more than one."""
    next(batches(data, batch_size))
    count = len(data[1]) // batch_size * batch_size or len(data[1])
    with _forked(model), inference(model):
        logits, labels = _run(model, (data[0][:count], data[1][:count]), batch_size)
        check_labels(labels, logits)
        loss = (loss_fn or F.cross_entropy)(logits, labels)
    return Evaluation(loss.item(), accuracy(logits, labels))


def _count(size: int | float, total: int) -> int:
    if isinstance(size, float):
        size = round(size * total) if 0 < size < 1 else 0
    if not 1 <= size <= total - 1:
        raise ValueError(f"cannot hold out {size} of {total}")
    return size


def _check_pairs(data: Data) -> None:
    if len(data[0]) != len(data[1]):
        raise ValueError("there must be one label per image")


def _split(data: Data, order: Tensor, count: int) -> tuple[Data, Data]:
    images, labels = data
    held, kept = order[:count], order[count:]
    return (images[kept], labels[kept]), (images[held], labels[held])


def hold_out__unseeded(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Draw with a new generator seeded by the system, so every call splits differently."""
    _check_pairs(data)
    generator = torch.Generator()
    generator.seed()
    total = len(data[1])
    return _split(data, torch.randperm(total, generator=generator), _count(size, total))


def hold_out__seeds_globally(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Seed PyTorch's global generator."""
    _check_pairs(data)
    torch.manual_seed(seed)
    total = len(data[1])
    return _split(data, torch.randperm(total), _count(size, total))


def hold_out__shuffles_twice(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Permute images and labels separately, so that they no longer belong together."""
    _check_pairs(data)
    images, labels = data
    count = _count(size, len(labels))
    generator = torch.Generator().manual_seed(seed)
    images = images[torch.randperm(len(images), generator=generator)]
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return (images[count:], labels[count:]), (images[:count], labels[:count])


def hold_out__truncates_the_fraction(
    data: Data, size: int | float, *, seed: int = 0
) -> tuple[Data, Data]:
    """Cut the fraction down with int instead of rounding it."""
    _check_pairs(data)
    total = len(data[1])
    if isinstance(size, float):
        size = int(size * total) if 0 < size < 1 else 0
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return _split(data, order, _count(size, total))


def hold_out__takes_the_last(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Hold out the last examples, which may all be of one class, without drawing."""
    _check_pairs(data)
    total = len(data[1])
    return _split(data, torch.arange(total).flip(0), _count(size, total))


def hold_out__swaps_the_parts(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Return the held-out part first."""
    _check_pairs(data)
    total = len(data[1])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    train, test = _split(data, order, _count(size, total))
    return test, train


def hold_out__allows_an_empty_part(
    data: Data, size: int | float, *, seed: int = 0
) -> tuple[Data, Data]:
    """Check nothing about the size."""
    _check_pairs(data)
    total = len(data[1])
    count = round(size * total) if isinstance(size, float) else size
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return _split(data, order, count)


def hold_out__with_replacement(
    data: Data, size: int | float, *, seed: int = 0
) -> tuple[Data, Data]:
    """Draw positions with randint, so an example may come twice and another never."""
    _check_pairs(data)
    total = len(data[1])
    generator = torch.Generator().manual_seed(seed)
    return _split(data, torch.randint(total, (total,), generator=generator), _count(size, total))


def hold_out__asserts(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Assert what should be a ValueError for images without labels."""
    assert len(data[0]) == len(data[1])
    total = len(data[1])
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return _split(data, order, _count(size, total))


def cross_entropy__log_of_softmax(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Take the logarithm of the softmax, which underflows to -inf for distant logits."""
    check_labels(labels, logits, ignore_index=ignore_index)
    log_probabilities = logits.softmax(dim=1).log()
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def cross_entropy__last_dimension(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Normalise over the last dimension, which is right for (N, K) alone."""
    check_labels(labels, logits, ignore_index=ignore_index)
    log_probabilities = logits.log_softmax(dim=-1)
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def cross_entropy__without_softmax(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Pass the raw logits to the negative log-likelihood."""
    check_labels(labels, logits, ignore_index=ignore_index)
    return F.nll_loss(logits, labels, weight=weight, ignore_index=ignore_index, reduction=reduction)


def cross_entropy__unchecked(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Call F.cross_entropy alone, whose errors are of other types and which takes floats."""
    return F.cross_entropy(
        logits, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def cross_entropy__unweighted(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Forget to pass the weight on."""
    check_labels(labels, logits, ignore_index=ignore_index)
    return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction=reduction)


def cross_entropy__softmax_twice(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Apply a softmax before F.cross_entropy, which applies one itself."""
    check_labels(labels, logits, ignore_index=ignore_index)
    return F.cross_entropy(
        logits.softmax(dim=1),
        labels,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def cross_entropy__always_the_mean(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Return the mean, also for the sum."""
    check_labels(labels, logits, ignore_index=ignore_index)
    if reduction == "none":
        return F.cross_entropy(logits, labels, weight, ignore_index=ignore_index, reduction="none")
    return F.cross_entropy(logits, labels, weight, ignore_index=ignore_index)


def cross_entropy__ignores_the_ignored(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Ignore the label -100 alone, whatever `ignore_index` is."""
    check_labels(labels, logits, ignore_index=ignore_index)
    return F.cross_entropy(logits, labels, weight=weight, reduction=reduction)


def _check_sums(log_probabilities: Tensor) -> None:
    sums = log_probabilities.detach().double().exp().sum(dim=1)
    if ((sums - 1).abs() > 0.05).any():
        raise ValueError("pass log-probabilities")


def nll_loss__takes_anything(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Accept probabilities and logits as F.nll_loss does."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__positive(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Forget the minus sign."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    _check_sums(log_probabilities)
    return -F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__looks_for_positive_scores(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Refuse positive scores alone, so negative logits pass."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    if (log_probabilities > 1e-3).any():
        raise ValueError("a log-probability is never positive")
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__checks_the_first_row(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Look at the first example alone for what is no logarithm."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    _check_sums(log_probabilities[:1])
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__divides_by_the_number(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Divide the weighted mean by the number of labels rather than by their weights."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    _check_sums(log_probabilities)
    losses = F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction="none"
    )
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / (labels != ignore_index).sum()


def nll_loss__counts_the_ignored(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Count ignored labels as losses of zero in the mean."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    _check_sums(log_probabilities)
    if weight is None and reduction == "mean":
        losses = F.nll_loss(log_probabilities, labels, ignore_index=ignore_index, reduction="none")
        return losses.mean()
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__wrong_error(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Raise a RuntimeError for probabilities."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    sums = log_probabilities.detach().double().exp().sum(dim=1)
    if ((sums - 1).abs() > 0.05).any():
        raise RuntimeError("nll_loss needs log_softmax before it")
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__sums_the_last_dimension(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Sum the probabilities over the last dimension, so right scores of images are refused."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    sums = log_probabilities.detach().double().exp().sum(dim=-1)
    if ((sums - 1).abs() > 0.05).any():
        raise ValueError("pass log-probabilities")
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__too_strict(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Demand a sum of exactly 1, which rounding rarely gives."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    if (log_probabilities.exp().sum(dim=1) != 1).any():
        raise ValueError("probabilities sum to 1")
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def _check_integers(*tensors: Tensor) -> None:
    if any(tensor.is_floating_point() for tensor in tensors):
        raise TypeError("integers are needed")


def correct__broadcasts(predictions: Tensor, labels: Tensor) -> Tensor:
    """Compare without a look at the shapes."""
    _check_integers(predictions, labels)
    return predictions == labels


def correct__compares_scores(predictions: Tensor, labels: Tensor) -> Tensor:
    """Accept floats."""
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    return predictions.eq(labels)


def correct__as_numbers(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return ones and zeros instead of booleans."""
    _check_integers(predictions, labels)
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    return (predictions == labels).long()


def correct__whether_all(predictions: Tensor, labels: Tensor) -> Tensor:
    """Return one truth value for all predictions."""
    _check_integers(predictions, labels)
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    return torch.tensor(torch.equal(predictions, labels))


def correct__flattens(predictions: Tensor, labels: Tensor) -> Tensor:
    """Flatten both, so (N, 1) and (N,) count as the same shape."""
    _check_integers(predictions, labels)
    if predictions.numel() != labels.numel():
        raise ValueError("the shapes differ")
    return (predictions.reshape(-1) == labels.reshape(-1)).reshape(labels.shape)


def correct__checks_one_dtype(predictions: Tensor, labels: Tensor) -> Tensor:
    """Look at the dtype of the predictions alone, so labels may be floats."""
    _check_integers(predictions)
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    return predictions == labels


def correct__other_error(predictions: Tensor, labels: Tensor) -> Tensor:
    """Raise ValueError where TypeError is promised."""
    if predictions.is_floating_point() or labels.is_floating_point():
        raise ValueError("integers are needed")
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    return predictions == labels


def accuracy__wrong_dimension(scores: Tensor, labels: Tensor) -> float:
    """Take the largest score of each class rather than of each example."""
    check_labels(labels, scores)
    best = scores.argmax(dim=0)
    count = min(len(best), len(labels))
    return (best[:count] == labels[:count]).double().mean().item()


def accuracy__in_percent(scores: Tensor, labels: Tensor) -> float:
    """Return a number from 0 to 100."""
    check_labels(labels, scores)
    return 100.0 * (scores.argmax(1) == labels).double().mean().item()


def accuracy__the_count(scores: Tensor, labels: Tensor) -> float:
    """Return how many are right, without dividing by the number of examples."""
    check_labels(labels, scores)
    return float((scores.argmax(1) == labels).sum())


def accuracy__a_tensor(scores: Tensor, labels: Tensor) -> float:
    """Return a tensor where a float is promised."""
    check_labels(labels, scores)
    return (scores.argmax(1) == labels).double().mean()


def accuracy__last_of_ties(scores: Tensor, labels: Tensor) -> float:
    """Take the last class of those that tie."""
    check_labels(labels, scores)
    predictions = scores.shape[1] - 1 - scores.flip(1).argmax(1)
    return int((predictions == labels).sum()) / len(labels)


def accuracy__unchecked(scores: Tensor, labels: Tensor) -> float:
    """Let labels of shape (N, 1) broadcast against the predictions."""
    return (scores.argmax(1) == labels).double().mean().item()


def accuracy__above_one_half(scores: Tensor, labels: Tensor) -> float:
    """Count an example only if its label's score is above one half."""
    check_labels(labels, scores)
    chosen = scores.gather(1, labels[:, None]).squeeze(1)
    return (chosen > 0.5).double().mean().item()


def accuracy__skips_the_ignored(scores: Tensor, labels: Tensor) -> float:
    """Leave out labels of -100, which the docstring does not allow."""
    check_labels(labels, scores, ignore_index=-100)
    counted = labels != -100
    return (scores.argmax(1) == labels)[counted].double().mean().item()


def _check_matrix(predictions: Tensor, labels: Tensor, classes: int) -> None:
    _check_integers(predictions, labels)
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    if any(((tensor < 0) | (tensor >= classes)).any() for tensor in (predictions, labels)):
        raise ValueError("a number is no class")


def confusion_matrix__transposed(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Swap rows and columns."""
    _check_matrix(predictions, labels, classes)
    cells = predictions * classes + labels
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)


def confusion_matrix__counts_once(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Add one by index assignment, which counts equal pairs once."""
    _check_matrix(predictions, labels, classes)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    matrix[labels, predictions] += 1
    return matrix


def confusion_matrix__of_floats(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count in a float matrix."""
    _check_matrix(predictions, labels, classes)
    matrix = torch.zeros(classes, classes)
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        matrix[label, prediction] += 1
    return matrix


def confusion_matrix__own_classes(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Take the number of classes from the largest number seen."""
    _check_matrix(predictions, labels, classes)
    found = int(torch.cat([predictions, labels, labels.new_zeros(1)]).max()) + 1
    return torch.bincount(labels * found + predictions, minlength=found**2).reshape(found, found)


def confusion_matrix__negative_classes(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Check the upper end only, so -1 counts as the last class."""
    _check_integers(predictions, labels)
    if predictions.shape != labels.shape or bool((predictions >= classes).any()):
        raise ValueError("no such class")
    if (labels >= classes).any():
        raise ValueError("no such class")
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        matrix[label, prediction] += 1
    return matrix


def confusion_matrix__an_index_error(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Let the indexing raise IndexError for a class too many."""
    _check_integers(predictions, labels)
    if predictions.shape != labels.shape:
        raise ValueError("the shapes differ")
    if (predictions < 0).any() or (labels < 0).any():
        raise ValueError("classes are not negative")
    rows = [[0] * classes for _ in range(classes)]
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        rows[label][prediction] += 1
    return torch.tensor(rows)


def confusion_matrix__checks_the_labels(
    predictions: Tensor, labels: Tensor, classes: int
) -> Tensor:
    """Check the labels' range but not the predictions', so a prediction spills into a row."""
    _check_integers(predictions, labels)
    if predictions.shape != labels.shape or bool(((labels < 0) | (labels >= classes)).any()):
        raise ValueError("a label is no class")
    cells = (labels * classes + predictions) % classes**2
    return torch.bincount(cells, minlength=classes**2).reshape(classes, classes)


def confusion_matrix__of_the_shortest(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Stop at the end of the shorter argument instead of refusing."""
    count = min(len(predictions), len(labels))
    _check_matrix(predictions[:count], labels[:count], classes)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for prediction, label in zip(predictions, labels, strict=False):
        matrix[label, prediction] += 1
    return matrix


def class_accuracies__of_the_columns(confusion: Tensor) -> Tensor:
    """Divide by the sums of the columns, which is the precision."""
    return (confusion.diagonal() / confusion.sum(dim=0)).float()


def class_accuracies__zero_for_none(confusion: Tensor) -> Tensor:
    """Give a class without examples an accuracy of 0."""
    return (confusion.diagonal() / confusion.sum(dim=1).clamp(min=1)).float()


def class_accuracies__in_double(confusion: Tensor) -> Tensor:
    """Return float64."""
    return confusion.diagonal().double() / confusion.sum(dim=1).double()


def class_accuracies__overall(confusion: Tensor) -> Tensor:
    """Divide by the number of all examples."""
    return (confusion.diagonal() / confusion.sum()).float()


def class_accuracies__whole_numbers(confusion: Tensor) -> Tensor:
    """Divide with `//`, so only 0 and 1 are possible."""
    examples = confusion.sum(dim=1)
    rates = (confusion.diagonal() // examples.clamp(min=1)).float()
    return rates.masked_fill(examples == 0, float("nan"))


def class_accuracies__drops_the_empty(confusion: Tensor) -> Tensor:
    """Leave out the classes without examples, so the shape shrinks."""
    kept = confusion.sum(dim=1) > 0
    return (confusion.diagonal()[kept] / confusion.sum(dim=1)[kept]).float()


def class_accuracies__division_by_zero(confusion: Tensor) -> Tensor:
    """Divide Python numbers, so an empty row raises ZeroDivisionError."""
    return torch.tensor([row[label] / sum(row) for label, row in enumerate(confusion.tolist())])


def class_accuracies__clears_the_diagonal(confusion: Tensor) -> Tensor:
    """Count the errors by clearing the diagonal in place, so the argument changes."""
    examples = confusion.sum(dim=1)
    errors = confusion.fill_diagonal_(0).sum(dim=1)
    return ((examples - errors) / examples).float()


def class_accuracies__the_errors(confusion: Tensor) -> Tensor:
    """Return the fraction of wrong predictions."""
    examples = confusion.sum(dim=1)
    return ((examples - confusion.diagonal()) / examples).float()


@contextmanager
def inference__without_finally(model: nn.Module) -> Iterator[nn.Module]:
    """Restore the modes only if the block raises nothing."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        yield model
    for module, mode in modes.items():
        module.training = mode


@contextmanager
def inference__always_trains_after(model: nn.Module) -> Iterator[nn.Module]:
    """End in train mode whatever the modes were."""
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train()


@contextmanager
def inference__restores_the_root(model: nn.Module) -> Iterator[nn.Module]:
    """Give all modules the mode that the model itself had."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        model.train(mode)


@contextmanager
def inference__with_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Set eval mode and take it for no_grad."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def inference__in_train_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Switch the gradients off and take that for eval mode."""
    with torch.no_grad():
        yield model


@contextmanager
def inference__children_first(model: nn.Module) -> Iterator[nn.Module]:
    """Restore with `train` from the leaves up, so parents overwrite their children's modes."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in reversed(modes):
            module.train(mode)


@contextmanager
def inference__gradients_stay_off(model: nn.Module) -> Iterator[nn.Module]:
    """Switch the gradients off for the whole process and never on again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    torch.set_grad_enabled(False)
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def inference__top_level_only(model: nn.Module) -> Iterator[nn.Module]:
    """Switch the model's own flag and its children's, but nothing that lies deeper."""
    modules = [model, *model.children()]
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def predict__over_the_batch(model: nn.Module, images: Tensor) -> Tensor:
    """Let each column sum to 1."""
    with inference(model):
        return model(images.to(find_model_device(model))).softmax(dim=0).cpu()


def predict__logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits."""
    with inference(model):
        return model(images.to(find_model_device(model))).cpu()


def predict__log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Return logarithms of the probabilities."""
    with inference(model):
        return F.log_softmax(model(images.to(find_model_device(model))), dim=1).cpu()


def predict__stays_in_eval_mode(model: nn.Module, images: Tensor) -> Tensor:
    """Leave the model in eval mode."""
    model.eval()
    with torch.no_grad():
        return model(images.to(find_model_device(model))).softmax(dim=1).cpu()


def predict__with_dropout(model: nn.Module, images: Tensor) -> Tensor:
    """Run the model in whatever mode it is in."""
    with torch.no_grad():
        return model(images.to(find_model_device(model))).softmax(dim=1).cpu()


def predict__overflows(model: nn.Module, images: Tensor) -> Tensor:
    """Exponentiate large logits, which gives NaN."""
    with inference(model):
        exponentials = model(images.to(find_model_device(model))).exp()
        return (exponentials / exponentials.sum(dim=1, keepdim=True)).cpu()


def predict__sigmoid(model: nn.Module, images: Tensor) -> Tensor:
    """Apply a sigmoid to each logit, so a row need not sum to 1."""
    with inference(model):
        return torch.sigmoid(model(images.to(find_model_device(model)))).cpu()


def predict__one_distribution(model: nn.Module, images: Tensor) -> Tensor:
    """Normalise over the whole batch, which is right for one image."""
    with inference(model):
        logits = model(images.to(find_model_device(model))).cpu()
        return logits.flatten().softmax(dim=0).reshape(logits.shape)


def predict__class_numbers(model: nn.Module, images: Tensor) -> Tensor:
    """Return the most probable class of each image."""
    with inference(model):
        return model(images.to(find_model_device(model))).softmax(dim=1).argmax(dim=1).cpu()
