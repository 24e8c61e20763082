"""Right answers to the exercises of lesson 5, validation, as learners write them."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from dlconcepts.autograd import LossFunction
from dlconcepts.loading import batches
from dlconcepts.support.runs import find_model_device
from dlconcepts.validation import SUM_TOLERANCE, Data, Evaluation, check_labels


def evaluate__with_a_list_of_logits(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Collect logits and labels in lists, and use the library's `inference` and `accuracy`."""
    from dlconcepts.validation import accuracy, inference

    device = find_model_device(model)
    forked = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(forked, device_type=device.type), inference(model):
        logits, labels = [], []
        for images, targets in batches(data, batch_size, device=device):
            logits.append(model(images))
            labels.append(targets)
        all_logits, all_labels = torch.cat(logits), torch.cat(labels)
        check_labels(all_labels, all_logits)
        loss = (loss_fn or F.cross_entropy)(all_logits, all_labels)
    return Evaluation(float(loss), accuracy(all_logits, all_labels))


def evaluate__by_hand(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
    verbose: bool = False,
) -> Evaluation:
    """Keep and restore modes and random states with try and finally, and count hits by hand."""
    if loss_fn is None:
        loss_fn = nn.CrossEntropyLoss()
    modes = {module: module.training for module in model.modules()}
    device = find_model_device(model)
    cpu_state = torch.get_rng_state()
    python_state = random.getstate()
    device_module = None if device.type == "cpu" else torch.get_device_module(device)
    device_state = device_module.get_rng_state(device) if device_module else None
    try:
        model.eval()
        with torch.no_grad():
            pairs = [(model(x), y) for x, y in batches(data, batch_size, device=device)]
            outputs = torch.cat([output for output, _ in pairs], dim=0)
            targets = torch.cat([y for _, y in pairs], dim=0)
            check_labels(targets, outputs)
            loss = loss_fn(outputs, targets).item()
            hits = int((outputs.argmax(dim=1) == targets).sum())
    finally:
        for module, mode in modes.items():
            module.training = mode
        torch.set_rng_state(cpu_state)
        random.setstate(python_state)
        if device_module:
            device_module.set_rng_state(device_state, device)
    if verbose:
        print(f"loss {loss:.4f}, {hits} of {len(targets)} right")
    return Evaluation(loss=loss, accuracy=hits / len(targets))


def evaluate__with_a_data_loader(
    model: nn.Module,
    data: Data,
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Check and normalise everything with `batches` first, then cut it with a DataLoader."""
    next(batches(data, batch_size))  # its errors
    images, labels = next(batches(data, len(data[1])))
    loader = DataLoader(TensorDataset(images, labels), batch_size=batch_size)
    device = find_model_device(model)
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        forked = [] if device.type == "cpu" else [device]
        stack.enter_context(torch.random.fork_rng(forked, device_type=device.type))
        stack.enter_context(torch.no_grad())
        model.eval()
        logits = torch.cat([model(some.to(device)) for some, _ in loader])
        labels = labels.to(device)
        check_labels(labels, logits)
        loss = F.cross_entropy(logits, labels) if loss_fn is None else loss_fn(logits, labels)
        right = [a == b for a, b in zip(logits.argmax(1).tolist(), labels.tolist(), strict=True)]
        return Evaluation(loss.item(), sum(right) / len(right))


def hold_out__with_randperm(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Permute the positions with a generator of its own."""
    images, labels = data
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images, but {len(labels)} labels")
    total = len(labels)
    if isinstance(size, float):
        if not 0 < size < 1:
            raise ValueError(f"a fraction must lie between 0 and 1, not {size}")
        size = round(size * total)
    if not 0 < size < total:
        raise ValueError(f"cannot hold out {size} of {total} examples")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    train, test = order[size:], order[:size]
    return (images[train], labels[train]), (images[test], labels[test])


def hold_out__with_a_mask(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Draw positions with Python's random.Random, and keep the order of the examples."""
    images, labels = data
    n = images.shape[0]
    if labels.shape[0] != n:
        raise ValueError("there must be one label for each image")
    count = round(n * size) if isinstance(size, float) and 0 < size < 1 else size
    if isinstance(count, float) or count < 1 or count > n - 1:
        raise ValueError(f"size is {size}, which leaves one of the parts empty")
    mask = torch.zeros(n, dtype=torch.bool)
    mask[random.Random(seed).sample(range(n), count)] = True
    return (images[~mask], labels[~mask]), (images[mask], labels[mask])


def hold_out__with_random_split(
    data: Data, size: int | float, *, seed: int = 0
) -> tuple[Data, Data]:
    """Let torch's random_split draw the two subsets, and index with theirs."""
    images, labels = data
    if len(images) != len(labels):
        raise ValueError("images and labels differ in number")
    total = len(images)
    held = int(round(size * total)) if type(size) is float else int(size)  # noqa: RUF046
    if type(size) is float and (size <= 0 or size >= 1):
        raise ValueError("a fraction of the examples lies in (0, 1)")
    if held <= 0 or held >= total:
        raise ValueError(f"{held} of {total} examples cannot be held out")
    generator = torch.Generator()
    generator.manual_seed(seed)
    parts = random_split(range(total), [total - held, held], generator=generator)
    indices = [torch.tensor(list(part)) for part in parts]
    first, second = ((images[index], labels[index]) for index in indices)
    return first, second


def hold_out__with_numpy(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Permute with numpy's generator, and sort the positions of both parts."""
    images, labels = data
    total = len(images)
    if total != len(labels):
        raise ValueError("not one label per image")
    if isinstance(size, float) and not 0.0 < size < 1.0:
        raise ValueError("size is a whole number or a fraction in (0, 1)")
    number = int(np.rint(size * total)) if isinstance(size, float) else size
    if number not in range(1, total):
        raise ValueError("a part would be empty")
    shuffled = np.random.default_rng(seed % 2**32).permutation(total)
    held, kept = np.sort(shuffled[:number]), np.sort(shuffled[number:])
    return (
        (images[torch.from_numpy(kept)], labels[torch.from_numpy(kept)]),
        (images[torch.from_numpy(held)], labels[torch.from_numpy(held)]),
    )


def cross_entropy__functional(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Check the labels and call F.cross_entropy."""
    check_labels(labels, logits, ignore_index=ignore_index)
    return F.cross_entropy(
        logits, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def cross_entropy__log_softmax_and_nll(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Compose the two halves: log_softmax over the classes, then the library's `nll_loss`."""
    from dlconcepts.validation import nll_loss

    check_labels(labels, logits, ignore_index=ignore_index)
    log_probabilities = F.log_softmax(logits, dim=1)
    return nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def cross_entropy__by_hand(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Shift by the largest logit, sum the exponentials, and gather the labels' scores."""
    check_labels(labels, logits, ignore_index=ignore_index)
    shifted = logits - logits.detach().amax(dim=1, keepdim=True)
    log_sum = shifted.exp().sum(dim=1).log()
    counts = labels != ignore_index
    safe = torch.where(counts, labels, torch.zeros_like(labels))
    chosen = shifted.gather(1, safe.unsqueeze(1)).squeeze(1)
    weights = torch.ones_like(chosen) if weight is None else weight[safe]
    losses = torch.where(counts, (log_sum - chosen) * weights, 0.0)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "mean":
        return losses.sum() / weights[counts].sum()
    raise ValueError(f"unknown reduction {reduction!r}")


def cross_entropy__module(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Build an nn.CrossEntropyLoss, with checks of its own."""
    if labels.dtype != torch.long:
        raise TypeError(f"the labels are {labels.dtype}, not int64")
    if logits.dim() < 2 or labels.shape != logits[:, 0].shape:
        raise ValueError(f"logits {tuple(logits.shape)} do not go with {tuple(labels.shape)}")
    counted = labels[labels != ignore_index]
    if len(counted) == 0 or counted.min() < 0 or counted.max() >= logits.size(1):
        raise ValueError("no label counts, or one is not a class")
    criterion = nn.CrossEntropyLoss(weight, ignore_index=ignore_index, reduction=reduction)
    return criterion(logits, labels)


def _refuse_other_scores(log_probabilities: Tensor) -> None:
    sums = log_probabilities.detach().double().exp().sum(dim=1)
    if bool(((sums - 1).abs() > SUM_TOLERANCE).any()):
        raise ValueError("these are no log-probabilities; apply log_softmax to the logits")


def nll_loss__functional(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Check the labels and the sums of the probabilities, then call F.nll_loss."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    _refuse_other_scores(log_probabilities)
    return F.nll_loss(
        log_probabilities, labels, weight=weight, ignore_index=ignore_index, reduction=reduction
    )


def nll_loss__gathered(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Gather the label's log-probability of each example and average with the weights."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    totals = torch.logsumexp(log_probabilities.detach().float(), dim=1)
    if (totals.abs() > 0.05).any():
        raise ValueError("the exponentials of log-probabilities sum to 1, but these do not")
    ignored = labels == ignore_index
    index = labels.masked_fill(ignored, 0)
    if weight is None:
        weight = log_probabilities.new_ones(log_probabilities.shape[1])
    weights = weight[index].masked_fill(ignored, 0)
    picked = log_probabilities.gather(1, index[:, None]).squeeze(1)
    losses = (-picked * weights).masked_fill(ignored, 0)
    return {
        "none": lambda: losses,
        "sum": lambda: losses.sum(),
        "mean": lambda: losses.sum() / weights.sum(),
    }[reduction]()


def nll_loss__by_a_loop(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Put the classes last and go through the examples one after the other."""
    check_labels(labels, log_probabilities, ignore_index=ignore_index)
    rows = log_probabilities.movedim(1, -1).reshape(-1, log_probabilities.shape[1])
    losses, weights = [], []
    for row, label in zip(rows, labels.flatten().tolist(), strict=True):
        if abs(float(row.detach().double().exp().sum()) - 1) > SUM_TOLERANCE:
            raise ValueError(f"the probabilities of an example sum to {row.exp().sum():.3f}")
        if label == ignore_index:
            losses.append(row.new_zeros(()))
            continue
        class_weight = row.new_ones(()) if weight is None else weight[label]
        losses.append(-row[label] * class_weight)
        weights.append(class_weight)
    stacked = torch.stack(losses)
    if reduction == "none":
        return stacked.reshape(labels.shape)
    total = stacked.sum()
    return total if reduction == "sum" else total / torch.stack(weights).sum()


def correct__with_the_operator(predictions: Tensor, labels: Tensor) -> Tensor:
    """Check both arguments, then use `==`."""
    for tensor in (predictions, labels):
        if tensor.is_floating_point():
            raise TypeError(f"class numbers are integers, but got {tensor.dtype}")
    if predictions.shape != labels.shape:
        raise ValueError(f"shapes {tuple(predictions.shape)} and {tuple(labels.shape)} differ")
    return predictions == labels


def correct__with_xor(predictions: Tensor, labels: Tensor) -> Tensor:
    """Compare bit by bit: equal integers have an exclusive or of zero."""
    if predictions.size() != labels.size():
        raise ValueError("one prediction for each label, please")
    if predictions.dtype.is_floating_point or labels.dtype.is_floating_point:
        raise TypeError("these are scores: take the argmax first")
    return torch.bitwise_xor(predictions, labels).logical_not()


def correct__with_numpy(predictions: Tensor, labels: Tensor) -> Tensor:
    """Compare arrays and convert the result back."""
    if predictions.is_floating_point() or labels.is_floating_point():
        raise TypeError("floats are not class numbers")
    if list(predictions.shape) != list(labels.shape):
        raise ValueError("the shapes differ")
    equal = np.equal(predictions.cpu().numpy(), labels.cpu().numpy())
    return torch.as_tensor(equal, dtype=torch.bool, device=predictions.device)


def correct__by_a_loop(predictions: Tensor, labels: Tensor) -> Tensor:
    """Go through the flat elements and give the result their shape."""
    if predictions.shape != labels.shape:
        raise ValueError("predictions and labels have different shapes")
    if predictions.is_floating_point() or labels.is_floating_point():
        raise TypeError("predictions and labels must be integers")
    right = torch.empty(predictions.shape, dtype=torch.bool, device=predictions.device)
    pairs = zip(predictions.flatten().tolist(), labels.flatten().tolist(), strict=True)
    flat = [one == other for one, other in pairs]
    right.copy_(torch.tensor(flat, dtype=torch.bool).reshape(predictions.shape))
    return right


def accuracy__with_argmax(scores: Tensor, labels: Tensor) -> float:
    """Average the hits as float32, as most tutorials do."""
    check_labels(labels, scores)
    return (scores.argmax(dim=1) == labels).float().mean().item()


def accuracy__by_a_loop(scores: Tensor, labels: Tensor) -> float:
    """Look for the first largest score of each row in Python."""
    check_labels(labels, scores)
    hits = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        best = 0
        for index, score in enumerate(row):
            if score > row[best]:
                best = index
        hits += best == label
    return hits / len(labels)


def accuracy__with_numpy(scores: Tensor, labels: Tensor) -> float:
    """Use numpy's argmax, which takes the first of equal scores."""
    check_labels(labels, scores)
    predictions = np.argmax(scores.detach().cpu().double().numpy(), axis=-1)
    return float(np.mean(predictions == labels.cpu().numpy()))


def accuracy__with_the_confusion_matrix(scores: Tensor, labels: Tensor) -> float:
    """Divide the diagonal of the confusion matrix by the number of examples."""
    from dlconcepts.validation import confusion_matrix

    check_labels(labels, scores)
    matrix = confusion_matrix(scores.max(dim=1).indices, labels, scores.shape[1])
    return int(matrix.trace()) / int(matrix.sum())


def _check_classes(predictions: Tensor, labels: Tensor, classes: int) -> None:
    if predictions.is_floating_point() or labels.is_floating_point():
        raise TypeError("pass class numbers, not scores")
    if predictions.shape != labels.shape:
        raise ValueError("as many predictions as labels are needed")
    for numbers in (predictions, labels):
        if bool(((numbers < 0) | (numbers >= classes)).any()):
            raise ValueError(f"the classes are 0 to {classes - 1}")


def confusion_matrix__with_bincount(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Count the numbers of the cells."""
    _check_classes(predictions, labels, classes)
    cells = labels * classes + predictions
    return torch.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def confusion_matrix__by_a_loop(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Add one to a cell for each example."""
    _check_classes(predictions, labels, classes)
    rows = [[0] * classes for _ in range(classes)]
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        rows[label][prediction] += 1
    return torch.tensor(rows, dtype=torch.int64, device=labels.device)


def confusion_matrix__with_one_hot(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Multiply one-hot labels by one-hot predictions."""
    from dlconcepts.validation import correct

    correct(predictions, labels)  # its errors
    both = torch.stack([predictions, labels])
    if both.numel() and (both.min() < 0 or both.max() > classes - 1):
        raise ValueError("a prediction or a label is none of the classes")
    kinds = torch.arange(classes, device=labels.device)
    is_label = labels[None, :] == kinds[:, None]
    is_prediction = predictions[None, :] == kinds[:, None]
    return (is_label[:, None] & is_prediction[None, :]).sum(dim=-1)


def confusion_matrix__with_index_put(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Accumulate ones into an int64 matrix."""
    _check_classes(predictions, labels, classes)
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=labels.device)
    return matrix.index_put_((labels, predictions), torch.ones_like(labels), accumulate=True)


def class_accuracies__by_division(confusion: Tensor) -> Tensor:
    """Divide the diagonal by the sums of the rows; 0 / 0 is NaN."""
    return (confusion.diagonal() / confusion.sum(dim=1)).to(torch.float32)


def class_accuracies__by_a_loop(confusion: Tensor) -> Tensor:
    """Compute each class in Python, with NaN for an empty row."""
    rates = []
    for label, row in enumerate(confusion.tolist()):
        examples = sum(row)
        rates.append(row[label] / examples if examples else float("nan"))
    return torch.tensor(rates, dtype=torch.float32, device=confusion.device)


def class_accuracies__with_numpy(confusion: Tensor) -> Tensor:
    """Divide arrays with numpy's warnings switched off for the block."""
    counts = confusion.cpu().numpy().astype(np.float64)
    with np.errstate(invalid="ignore"):
        rates = np.diag(counts) / counts.sum(axis=1)
    return torch.from_numpy(rates).float().to(confusion.device)


def class_accuracies__with_where(confusion: Tensor) -> Tensor:
    """Normalise the rows in float64 and choose NaN where nothing was counted."""
    examples = confusion.sum(1).double()
    hits = torch.einsum("ii->i", confusion.double())
    nan = torch.full_like(hits, torch.nan)
    return torch.where(examples > 0, hits / examples.clamp(min=1), nan).float()


@contextmanager
def inference__with_a_dictionary(model: nn.Module) -> Iterator[nn.Module]:
    """Remember the modes in a dictionary and restore them in a finally clause."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def inference__with_an_exit_stack(model: nn.Module) -> Iterator[nn.Module]:
    """Register the restoring of each module with an ExitStack, and use inference mode."""
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        stack.enter_context(torch.inference_mode())
        yield model.train(False)


class _Inference:
    """Eval mode without gradients, between __enter__ and __exit__."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __enter__(self) -> nn.Module:
        """Switch to eval mode without gradients."""
        self.trained = [module for module in self.model.modules() if module.training]
        self.gradients = torch.is_grad_enabled()
        self.model.eval()
        torch.set_grad_enabled(False)
        return self.model

    def __exit__(self, *error: object) -> None:
        """Restore the modes and the gradients."""
        torch.set_grad_enabled(self.gradients)
        for module in self.trained:
            module.training = True


def inference__as_a_class(model: nn.Module) -> _Inference:
    """Return a context manager written as a class."""
    return _Inference(model)


def predict__with_the_library(model: nn.Module, images: Tensor) -> Tensor:
    """Run the model in the library's `inference`."""
    from dlconcepts.validation import inference

    with inference(model):
        logits = model(images.to(find_model_device(model)))
        return torch.softmax(logits, dim=1).cpu()


def predict__by_hand(model: nn.Module, images: Tensor) -> Tensor:
    """Keep the modes in a list, and exponentiate the log-softmax."""
    modes = [(module, module.training) for module in model.modules()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad():
            outputs = model.eval()(images.to(device))
            return F.log_softmax(outputs, dim=-1).exp().to("cpu")
    finally:
        for module, mode in modes:
            module.training = mode


def predict__row_by_row(model: nn.Module, images: Tensor) -> Tensor:
    """Compute a stable softmax for each row, after the model ran in inference mode."""
    training = {name: module.training for name, module in model.named_modules()}
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(images.to(find_model_device(model))).cpu()
    finally:
        for name, module in model.named_modules():
            module.training = training[name]
    rows = [(row - row.max()).exp() for row in logits]
    return torch.stack([row / row.sum() for row in rows])
