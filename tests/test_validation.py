"""Lesson 5: inference and validation.

A network is judged on examples that it has not seen, for it can learn any others by heart. The
judgement has three parts, and each can go wrong without an error. The loss: cross-entropy is the
log-softmax and the negative log-likelihood in one, so that it takes logits, and a softmax before it
keeps the loss from ever falling under a floor. The accuracy: a comparison of shapes that broadcast
still has a mean. The loop: batches of different size do not count alike, and a model left in
training mode drops its units and moves its statistics while it is looked at.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, note, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from dlconcepts.compare import bits, same, state_of
from dlconcepts.loading import batches
from dlconcepts.plots import Panel, compare_runs
from dlconcepts.strategies import FLOATS, networks, shapes, tensors
from dlconcepts.strategies import batches as drawn_batches
from dlconcepts.training import fit
from dlconcepts.validation import (
    Data,
    Evaluation,
    accuracy,
    class_accuracies,
    confusion_matrix,
    correct,
    cross_entropy,
    evaluate,
    hold_out,
    inference,
    nll_loss,
    predict,
)

claim = pytest.mark.claim

FALSE_ALARM = 1e-11  # the most that one example of a statistical law may have


@st.composite
def scores_and_labels(
    draw: st.DrawFn, *, max_size: int = 6, min_classes: int = 1, max_magnitude: float = 100.0
) -> Data:
    """Draw float64 scores (N, K), in every second batch with many ties, and int64 labels (N,)."""
    classes = draw(st.integers(min_classes, 5))
    size = {"min_size": 1, "max_size": max_size, "max_magnitude": max_magnitude}
    scores, labels = draw(drawn_batches(classes, classes, **size, dtype=torch.float64))
    return (scores.sign() if draw(st.booleans()) else scores), labels


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the softmax over the last axis, by its definition."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-softmax over the last axis, by its definition."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy of logits (N, K), by its definition."""
    rows = log_softmax(logits.double().numpy(force=True))
    return float(np.mean([-row[label] for row, label in zip(rows, labels.tolist(), strict=True)]))


# ------------------------------------------------- overfitting


def on_held_out_examples(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on examples that the model has not seen."""
    return evaluate(model, held_out).accuracy


def on_the_training_set(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on what the model was trained on."""
    return evaluate(model, examples).accuracy


def on_a_leaky_set(model: nn.Module, examples: Data, held_out: Data) -> float:
    """Measure on held-out examples among which half are copies of training examples."""
    (images, labels), (others, other_labels) = examples, held_out
    copies = len(others) // len(images)
    mixed = torch.cat([others, images.repeat(copies, 1)])
    return evaluate(model, (mixed, torch.cat([other_labels, labels.repeat(copies)]))).accuracy


@claim(
    "validation.overfitting",
    right=on_held_out_examples,
    wrong={on_the_training_set: "at chance", on_a_leaky_set: "at chance"},
    share=0.1,
    because="each example trains a network",
)
@given(seed=st.integers(0, 2**16), classes=st.integers(2, 10))
def test_random_labels_are_learnt_by_heart_and_teach_nothing(
    measure: Callable[[nn.Module, Data, Data], float], seed: int, classes: int
) -> None:
    """A wide network fits random labels without an error, and guesses those held out.

    The held-out labels are independent of all that the network saw, so that the number guessed
    rightly is binomial; its two-sided interval fails once in 1e11 runs.
    """
    torch.manual_seed(seed)
    examples, held_out = ((torch.randn(n, 32), torch.randint(classes, (n,))) for n in (24, 2000))
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    fit(model, examples, epochs=60, batch_size=24, optimizer=optimizer)
    share = measure(model, examples, held_out)

    low, high = binomial_interval(2000, 1 / classes, FALSE_ALARM)
    assert evaluate(model, examples).accuracy == 1, "random labels are learnt by heart"
    assert low <= 2000 * share <= high, "the accuracy on held-out examples stays at chance"


def binomial_interval(n: int, p: float, false_alarm: float) -> tuple[float, float]:
    """Return the bounds of a binomial count, left in either direction at half that probability."""
    return binom.ppf(false_alarm / 2, n, p), binom.isf(false_alarm / 2, n, p)


# ------------------------------------------------- the held-out set


def shuffled(n: int, seed: int) -> Tensor:
    """Return the positions of n examples in random order."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randperm(n, generator=generator, device="cpu").to(torch.get_default_device())


def draws_twice(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Draw each part on its own."""
    (images, labels), n = data, len(data[1])
    held = round(size * n) if isinstance(size, float) else size
    parts = shuffled(n, 2 * seed)[: n - held], shuffled(n, 2 * seed + 1)[:held]
    examples, held_out = ((images[part], labels[part]) for part in parts)
    return examples, held_out


def loses_the_remainder(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Round the size of each part down."""
    (images, labels), n = data, len(data[1])
    share = size if isinstance(size, float) else size / n
    order = shuffled(n, seed)
    examples, held_out = order[: int((1 - share) * n)], order[n - int(share * n) :]
    return (images[examples], labels[examples]), (images[held_out], labels[held_out])


def shuffles_the_images_alone(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Shuffle the images and leave the labels in their order."""
    (_, labels), ((first, _), (second, _)) = data, hold_out(data, size, seed=seed)
    return (first, labels[: len(first)]), (second, labels[len(first) :])


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, int | float]:
    """Draw a number of examples and a size that leaves some in both parts."""
    n = draw(st.integers(2, 40))
    held = draw(st.integers(1, n - 1))
    share = (held + draw(st.floats(-0.4, 0.4))) / n
    return n, share if draw(st.booleans()) else held


@claim(
    "validation.held-out-set",
    right=hold_out,
    wrong={
        draws_twice: "in one of the parts",
        loses_the_remainder: "in one of the parts",
        shuffles_the_images_alone: "keeps its label",
    },
)
@given(split=splits(), seed=st.integers(0, 2**16))
def test_each_example_is_in_one_part_with_its_label(
    hold_out: Callable[..., tuple[Data, Data]], split: tuple[int, int | float], seed: int
) -> None:
    """A split is disjoint and complete, and of the sizes that were asked for."""
    n, size = split
    positions = torch.arange(n)
    data = positions[:, None].float(), positions
    held = round(size * n) if isinstance(size, float) else size

    (images, labels), (held_images, held_labels) = hold_out(data, size, seed=seed)

    drawn = torch.cat([images, held_images])[:, 0]
    assert sorted(drawn.tolist()) == list(range(n)), "each example is once in one of the parts"
    assert len(held_images) == held, "as many are held out as asked for"
    assert drawn.tolist() == torch.cat([labels, held_labels]).tolist(), "an image keeps its label"


def ignores_the_seed(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Split in the same way whatever the seed."""
    return hold_out(data, size)


def shuffles_with_the_global_generator(
    data: Data, size: int, *, seed: int = 0
) -> tuple[Data, Data]:
    """Seed and use the generator that all the program draws from."""
    torch.manual_seed(seed)
    return hold_out(data, size, seed=int(torch.randint(2**62, (), device="cpu")))


def forgets_the_seed(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Draw the split from the global generator as it stands."""
    with torch.random.fork_rng(devices=[]):
        split_seed = int(torch.randint(2**62, (), device="cpu"))
    torch.randint(2, (), device="cpu")
    return hold_out(data, size, seed=split_seed)


@claim(
    "validation.held-out-set",
    right=hold_out,
    wrong={
        ignores_the_seed: "another seed gives another",
        shuffles_with_the_global_generator: "random state is left alone",
        forgets_the_seed: "the same seed gives the same",
    },
)
@given(seed=st.integers(0, 2**32), other=st.integers(0, 2**33))
def test_a_split_is_repeatable(
    hold_out: Callable[..., tuple[Data, Data]], seed: int, other: int
) -> None:
    """A seed gives one split, another seed another; two of 64 agree by chance once in 1e18.

    Seeds are the same to the CPU's generator if they agree modulo 2**32: it takes 32 bits.
    """
    data = torch.zeros(64, 1), torch.arange(64)
    before = torch.get_rng_state()

    split, again, different = (
        hold_out(data, 32, seed=s)[0][1].sort().values for s in (seed, seed, other)
    )

    assert same(split, again), "the same seed gives the same split"
    one_seed = (seed - other) % 2**32 == 0
    assert same(split, different) == one_seed, "another seed gives another split"
    assert same(torch.get_rng_state(), before), "the global random state is left alone"


def takes_what_is_there(data: Data, size: int | float, *, seed: int = 0) -> tuple[Data, Data]:
    """Cut with slices, which take any number."""
    (images, labels), n = data, len(data[1])
    held = int(size * n) if isinstance(size, float) and math.isfinite(size) else 0
    held = size if isinstance(size, int) else held
    return (images[held:], labels[held:]), (images[:held], labels[:held])


UNFIT_SHARES = (
    st.sampled_from([0.0, 1.0, math.nan]) | st.floats(max_value=0) | st.floats(min_value=1)
)


def holds_out_the_last(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Cut the data where they stand, and hold out what comes last."""
    images, labels = data
    return (images[:-size], labels[:-size]), (images[-size:], labels[-size:])


def spares_the_last(data: Data, size: int, *, seed: int = 0) -> tuple[Data, Data]:
    """Never hold out the last example."""
    images, labels = data
    order = torch.cat([shuffled(len(labels) - 1, seed), torch.tensor([len(labels) - 1])])
    train, held = order[size:], order[:size]
    return (images[train], labels[train]), (images[held], labels[held])


@claim(
    "validation.held-out-set",
    right=hold_out,
    wrong={holds_out_the_last: "as often as any other", spares_the_last: "as often as any other"},
    share=0.05,
    because="each example splits 1,000 times",
)
@given(first=st.integers(0, 2**16), n=st.integers(2, 6))
def test_each_example_is_held_out_as_often_as_any_other(
    hold_out: Callable[..., tuple[Data, Data]], first: int, n: int
) -> None:
    """Of n examples one is held out: each of them by one of n of 1,000 seeds.

    The counts are binomial; the intervals of all n share a false alarm of 1e-11.
    """
    data = torch.zeros(n, 1), torch.arange(n)

    held = [int(hold_out(data, 1, seed=first + k)[1][1]) for k in range(1000)]

    low, high = binomial_interval(1000, 1 / n, FALSE_ALARM / n)
    for example in range(n):
        times = held.count(example)
        assert low <= times <= high, f"held out as often as any other, but {times} times"


@claim("validation.held-out-set", right=hold_out, wrong={takes_what_is_there: "DID NOT RAISE"})
@given(n=st.integers(0, 5), data=st.data())
def test_a_size_that_leaves_a_part_empty_is_refused(
    hold_out: Callable[..., tuple[Data, Data]], n: int, data: st.DataObject
) -> None:
    """No example held out, all of them, or more than there are: an error that says so."""
    whole = st.integers(-3, 0) | st.integers(n, n + 3)
    size = data.draw(whole | UNFIT_SHARES | st.just(0.1 / max(n, 1)), label="size")

    if n < 2:
        message = f"two parts need at least 2 examples, but there are {n}"
    elif isinstance(size, float) and not 0 < size < 1:
        message = f"a share lies between 0 and 1, but size is {size}"
    else:
        held = round(size * n) if isinstance(size, float) else size
        message = f"of {n} examples, 1 to {n - 1} can be held out, but size={size} asks for {held}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hold_out((torch.zeros(n, 1), torch.arange(n)), size)


def test_a_split_is_that_of_seed_0_unless_another_is_given() -> None:
    """Who gives no seed gets the same split each time, that of 0."""
    data = torch.zeros(100, 1), torch.arange(100)

    assert hold_out(data, 10)[1][1].equal(hold_out(data, 10, seed=0)[1][1])


def test_images_and_labels_of_different_number_are_not_split() -> None:
    """Labels that belong to no image are an error."""
    with pytest.raises(ValueError, match="3 images but 2 labels"):
        hold_out((torch.zeros(3, 1), torch.arange(2)), 1)


# ------------------------------------------------- log-softmax


def log_of_softmax(logits: Tensor, dim: int) -> Tensor:
    """Take the logarithm of probabilities that may have become zero."""
    return logits.softmax(dim).log()


def log_with_epsilon(logits: Tensor, dim: int) -> Tensor:
    """Add a small number, so that there is always a logarithm."""
    return (logits.softmax(dim) + 1e-8).log()


def over_the_batch(logits: Tensor, dim: int) -> Tensor:
    """Normalise over the examples instead of the classes."""
    return logits.log_softmax(0)


def subtracts_logsumexp(logits: Tensor, dim: int) -> Tensor:
    """Subtract two numbers of the size of the logits, rounded at that size."""
    return logits - logits.logsumexp(dim, keepdim=True)


HALF = (torch.float16, torch.bfloat16)


@st.composite
def any_logits(draw: st.DrawFn) -> Tensor:
    """Draw logits (N, K) of three dtypes, up to half the largest number of each."""
    dtype = draw(st.sampled_from([torch.float32, *HALF]))
    limit = draw(st.sampled_from([1e4, torch.finfo(dtype).max / 2]))
    return draw(tensors(shapes(2, 2, min_side=1, max_side=12), dtype, max_magnitude=limit))


def largest_error(logits: Tensor) -> float:
    """Return the bound of the error of log_softmax: K / 2 + 4 epsilon, and 2 in half precision.

    A sum of K terms loses K / 2 epsilon at most, each further operation a part of one. The half
    types are computed in float32 and rounded once or twice.
    """
    epsilon = torch.finfo(logits.dtype).eps
    return epsilon * (2 if logits.dtype in HALF else logits.shape[1] / 2 + 4)


@claim(
    "validation.log-softmax-is-stable",
    right=F.log_softmax,
    wrong={log_of_softmax: "is finite", over_the_batch: "sum to 1"},
)
@given(logits=any_logits())
def test_log_softmax_is_finite_and_its_exponentials_sum_to_one(
    log_softmax_of: Callable[..., Tensor], logits: Tensor
) -> None:
    """Where a probability underflows to zero, its logarithm is still a number below zero."""
    result = log_softmax_of(logits, dim=1)

    assert bool(result.isfinite().all()), "the log of the softmax is finite"
    assert bool((result <= 0).all()), "a log-probability is at most 0"
    sums = np.exp(result.double().numpy(force=True)).sum(axis=1)
    # An error e in a log-probability is one of e times p in the probability.
    slack = 2 * largest_error(logits) * (1 + math.log(logits.shape[1]))
    assert np.abs(sums - 1).max() <= slack, "the exponentials sum to 1"


@claim(
    "validation.log-softmax-is-stable",
    right=F.log_softmax,
    wrong={log_with_epsilon: "from the exact", subtracts_logsumexp: "from the exact"},
)
@given(logits=any_logits())
def test_log_softmax_is_exact_to_a_few_ulp(
    log_softmax_of: Callable[..., Tensor], logits: Tensor
) -> None:
    """The error is a few times the dtype's epsilon, of the exact value or of 1 if that is less.

    The exact value is computed in float64, from logits of up to half the dtype's largest number.
    """
    exact = log_softmax(logits.double().numpy(force=True))

    values = log_softmax_of(logits, dim=1).double().numpy(force=True)

    error = (np.abs(values - exact) / np.maximum(1, np.abs(exact))).max()
    bound, epsilon = largest_error(logits), torch.finfo(logits.dtype).eps
    assert error <= bound, f"{error / epsilon:.3g} epsilon away from the exact value"


# ------------------------------------------------- log-softmax and NLL


def softmax_and_nll(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Forget the logarithm."""
    return F.nll_loss(logits.softmax(1), labels, **options)


def forgets_the_minus(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Add up the log-likelihoods instead of taking them away."""
    return -F.nll_loss(logits.log_softmax(1), labels, **options)


def divides_by_the_count(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Average the weighted losses over the number of examples, not over their weights."""
    if options["reduction"] != "mean":
        return F.cross_entropy(logits, labels, **options)
    losses = F.cross_entropy(logits, labels, **{**options, "reduction": "none"})
    return losses.sum() / (labels != options["ignore_index"]).sum()


def counts_the_ignored(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Average over all examples, the ignored ones among them."""
    loss = F.cross_entropy(logits, labels, **options)
    counted = (labels != options["ignore_index"]).double().mean()
    return loss * counted if options["reduction"] == "mean" else loss


def over_the_last_axis(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Normalise over the last axis, which is not that of the classes in (N, K, ...)."""
    return F.nll_loss(logits.log_softmax(-1), labels, **options)


def detaches_the_normaliser(logits: Tensor, labels: Tensor, **options: Any) -> Tensor:
    """Keep the gradient from passing through the sum of the exponentials."""
    return F.nll_loss(logits - logits.logsumexp(1, keepdim=True).detach(), labels, **options)


@st.composite
def losses_to_take(draw: st.DrawFn) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw logits (N, K, ...), labels (N, ...) that do not all count, and options of the loss."""
    n, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    extra = draw(st.sampled_from([(), (1,), (3,), (2, 2)]))
    logits = draw(tensors((n, classes, *extra), torch.float64, max_magnitude=100))
    size = n * math.prod(extra)
    ignored = draw(st.sampled_from([-100, -1, 0]))
    counted = [label for label in range(classes) if label != ignored]
    labels = draw(st.lists(st.sampled_from([*counted, ignored]), min_size=size, max_size=size))
    if classes > 1:
        labels[0] = counted[-1]
    elif ignored == 0:
        ignored = -100
    elif ignored == labels[0]:
        labels[0] = 0
    weights = st.lists(st.integers(1, 4), min_size=classes, max_size=classes)
    weight = draw(st.none() | weights.map(lambda w: torch.tensor(w, dtype=torch.float64)))
    reduction = draw(st.sampled_from(["mean", "sum", "none"]))
    options = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
    return logits.clone().requires_grad_(), torch.tensor(labels).view(n, *extra), options


def by_definition(
    logits: Tensor, labels: Tensor, incoming: Tensor, options: dict[str, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the cross-entropy and the gradient of the logits, from the formulas, in numpy."""
    rows = np.moveaxis(logits.numpy(force=True), 1, -1)
    truth = labels.numpy(force=True)
    counts = truth != options["ignore_index"]
    one_hot = np.eye(rows.shape[-1])[np.where(counts, truth, 0)]
    weight = options["weight"]
    weights = np.ones(truth.shape) if weight is None else one_hot @ weight.numpy(force=True)
    weights = weights * counts
    scale = 1 / weights.sum() if options["reduction"] == "mean" else 1.0
    losses = -scale * weights * (log_softmax(rows) * one_hot).sum(axis=-1)
    arriving = incoming.numpy(force=True) * scale * weights
    gradient = (softmax(rows) - one_hot) * arriving[..., None]
    value = losses if options["reduction"] == "none" else losses.sum()
    return value, np.moveaxis(gradient, -1, 1)


@claim(
    "validation.log-softmax-plus-nll-is-cross-entropy",
    right=cross_entropy,
    wrong={
        softmax_and_nll: "is the cross-entropy",
        forgets_the_minus: "is the cross-entropy",
        divides_by_the_count: "is the cross-entropy",
        counts_the_ignored: "is the cross-entropy",
        over_the_last_axis: "is the cross-entropy",
        detaches_the_normaliser: "is that of the cross-entropy",
    },
)
@given(loss=losses_to_take(), data=st.data())
def test_the_nll_of_the_log_softmax_is_the_cross_entropy(
    loss_fn: Callable[..., Tensor],
    loss: tuple[Tensor, Tensor, dict[str, Any]],
    data: st.DataObject,
) -> None:
    """Values and gradients are those of the formulas and of torch.nn.CrossEntropyLoss."""
    logits, labels, options = loss
    torchs = F.cross_entropy(logits, labels, **options)
    incoming = data.draw(
        tensors(tuple(torchs.shape), torch.float64, max_magnitude=10), label="incoming gradient"
    )
    value, gradient = by_definition(logits, labels, incoming, options)

    result = loss_fn(logits, labels, **options)

    for expected in (torch.as_tensor(value), torchs.detach()):
        assert close(result, expected), "the value is the cross-entropy"
    (arrived,) = torch.autograd.grad(result, logits, incoming)
    (torchs_own,) = torch.autograd.grad(torchs, logits, incoming)
    for expected in (torch.as_tensor(gradient), torchs_own):
        assert close(arrived, expected), "the gradient is that of the cross-entropy"


def close(one: Tensor, other: Tensor, rtol: float = 1e-9, atol: float = 1e-9) -> bool:
    """Return whether the shapes agree, and the float64 numbers within rounding."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return one.shape == other.shape and torch.allclose(one, other, rtol=rtol, atol=atol)


# ------------------------------------------------- cross-entropy expects logits


def softmax_first(logits: Tensor, labels: Tensor) -> Tensor:
    """Put a softmax before the cross-entropy, as for a network that ends in one."""
    return F.cross_entropy(logits.softmax(1), labels)


def unchanged(logits: Tensor) -> Tensor:
    """Give the logits as they are."""
    return logits


def log_probabilities(logits: Tensor) -> Tensor:
    """Give the log-softmax."""
    return logits.log_softmax(1)


def probabilities(logits: Tensor) -> Tensor:
    """Give the softmax."""
    return logits.softmax(1)


@claim(
    "validation.cross-entropy-expects-softmax",
    right=log_probabilities,
    wrong={probabilities: "the same loss as the logits"},
)
@given(data=scores_and_labels())
def test_cross_entropy_takes_logits_and_log_probabilities_alike(
    output: Callable[[Tensor], Tensor], data: Data
) -> None:
    """The log-softmax of a log-softmax is itself, so that it does no harm before the loss."""
    logits, labels = data

    loss = F.cross_entropy(output(logits), labels)

    expected = torch.tensor(mean_cross_entropy(logits, labels), dtype=torch.float64)
    assert close(loss, expected), "the output has the same loss as the logits"


@claim(
    "validation.cross-entropy-expects-softmax",
    right=F.cross_entropy,
    wrong={softmax_first: "costs next to nothing"},
)
@given(data=scores_and_labels(min_classes=2), margin=st.floats(1, 100))
def test_a_sure_right_answer_costs_next_to_nothing(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, margin: float
) -> None:
    """Where the label's logit leads by m, the loss of K classes is at most (K - 1) exp(-m)."""
    logits, labels = data
    classes = logits.shape[1]
    sure = logits.clone()
    rows = torch.arange(len(labels))
    sure[rows, labels] = logits.max(dim=1).values + margin

    loss = loss_fn(sure, labels).item()

    most = (classes - 1) * math.exp(-margin)
    assert loss <= most + 1e-12, "a sure right answer costs next to nothing"


@claim(
    "validation.cross-entropy-expects-softmax",
    right=softmax_first,
    wrong={F.cross_entropy: "never falls under"},
)
@given(data=scores_and_labels(min_classes=2))
def test_after_a_softmax_the_loss_has_a_floor(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """With a softmax too many the loss of K classes never falls under log(1 + (K - 1) / e)."""
    logits, labels = data
    classes = logits.shape[1]
    floor = math.log(1 + (classes - 1) / math.e)
    surest = 1000 * F.one_hot(labels, classes).double()

    assert loss_fn(logits, labels).item() >= floor - 1e-12, f"never falls under {floor:.4f}"
    assert abs(loss_fn(surest, labels).item() - floor) < 1e-12, "never falls under, but reaches it"


@claim(
    "validation.cross-entropy-expects-softmax",
    right=softmax_first,
    wrong={F.cross_entropy: "hardly pushed"},
)
@given(
    classes=st.integers(2, 6),
    doubt=st.floats(1e-6, 0.3),
    data=st.data(),
)
def test_after_a_softmax_a_sure_wrong_answer_is_hardly_pushed(
    loss_fn: Callable[[Tensor, Tensor], Tensor], classes: int, doubt: float, data: st.DataObject
) -> None:
    """Where a wrong class has the probability 1 - d, the gradient shrinks by 2d / (1 - d) or more.

    Sizes are sums of magnitudes. The gradient of the logits is p times the deviation of a vector
    with entries in [-1, 1] from its mean under p, of which 2d times its range is the most.
    """
    size = {"min_size": classes - 1, "max_size": classes - 1}
    shares = data.draw(st.lists(st.floats(0.01, 1), **size), label="shares of the other classes")
    others = [doubt * share / sum(shares) for share in shares]
    logits = torch.tensor([[1 - doubt, *others]], dtype=torch.float64).log().requires_grad_()
    label = torch.tensor([data.draw(st.integers(1, classes - 1), label="label")])

    (gradient,) = torch.autograd.grad(loss_fn(logits, label), logits)
    (true_gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), logits)

    shrunk = gradient.abs().sum() / true_gradient.abs().sum()
    assert shrunk <= 2 * doubt / (1 - doubt) + 1e-9, "a sure wrong answer is hardly pushed"


# ------------------------------------------------- NLL expects log-probabilities


def nll_of_log_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss what it expects."""
    return nll_loss(logits.log_softmax(1), labels)


def nll_of_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss probabilities."""
    return F.nll_loss(logits.softmax(1), labels)


def nll_of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Give the loss the logits."""
    return F.nll_loss(logits, labels)


@claim(
    "validation.nll-expects-log-probabilities",
    right=nll_of_log_softmax,
    wrong={nll_of_probabilities: "mean of -log p", nll_of_logits: "mean of -log p"},
)
@given(data=scores_and_labels())
def test_the_loss_is_the_mean_of_minus_log_p_of_the_label(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """On log-probabilities the loss is never negative, and it is the mean of -log p(label)."""
    logits, labels = data

    loss = loss_fn(logits, labels).item()

    expected = mean_cross_entropy(logits, labels)
    assert math.isclose(loss, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"the mean of -log p(label) is {expected:.4g}, not {loss:.4g}"
    )
    assert loss >= 0, "the loss is never negative"


@claim(
    "validation.nll-expects-log-probabilities",
    right=nll_of_probabilities,
    wrong={nll_of_logits: "minus the mean", nll_of_log_softmax: "minus the mean"},
)
@given(data=scores_and_labels())
def test_on_probabilities_the_loss_is_between_minus_one_and_zero(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data
) -> None:
    """A negative loss that never falls under -1 tells that the logarithm was forgotten."""
    logits, labels = data
    p = softmax(logits.numpy(force=True))

    loss = loss_fn(logits, labels).item()

    chosen = [row[label] for row, label in zip(p, labels.tolist(), strict=True)]
    assert abs(loss + np.mean(chosen)) < 1e-9, "it is minus the mean probability of the labels"
    assert -1 - 1e-12 <= loss <= 0, "so that it lies between -1 and 0"


def takes_any_numbers(scores: Tensor, labels: Tensor) -> Tensor:
    """Call PyTorch's own loss, which looks at nothing."""
    return F.nll_loss(scores, labels)


@claim(
    "validation.nll-expects-log-probabilities",
    right=nll_loss,
    wrong={takes_any_numbers: "DID NOT RAISE"},
)
@given(data=scores_and_labels(min_classes=2), kind=st.sampled_from(["probabilities", "logits"]))
def test_what_is_no_log_probability_is_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], data: Data, kind: str
) -> None:
    """Probabilities and logits in the place of log-probabilities are an error that names them."""
    scores, labels = data
    given_scores = scores.softmax(1) if kind == "probabilities" else scores.abs() + 1
    message = "these are probabilities" if kind == "probabilities" else "do not sum to 1"

    with pytest.raises(ValueError, match=message):
        loss_fn(given_scores, labels)


def counts_from_the_end(scores: Tensor, labels: Tensor) -> Tensor:
    """Take label -1 for the last class, as Python's indexing does, and 2.5 for 2."""
    return F.nll_loss(scores, labels.long() % scores.shape[1])


def clamps(scores: Tensor, labels: Tensor) -> Tensor:
    """Move labels into the range of the classes."""
    return F.nll_loss(scores, labels.long().clamp(0, scores.shape[1] - 1))


@st.composite
def unfit_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    """Draw log-probabilities, labels that are none, the error and what it says."""
    scores, labels = draw(scores_and_labels())
    scores, classes = scores.log_softmax(1), scores.shape[1]
    if draw(st.booleans()):
        dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bool, torch.int32]))
        return scores, labels.to(dtype), TypeError, "positions of classes"
    wrong = draw(st.sampled_from([classes, -1, classes + 100, -99]))
    labels[draw(st.integers(0, len(labels) - 1))] = wrong
    return scores, labels, ValueError, f"{wrong} is none of the {classes} classes"


@claim(
    "validation.nll-expects-log-probabilities",
    right=nll_loss,
    wrong={counts_from_the_end: "DID NOT RAISE", clamps: "DID NOT RAISE"},
)
@given(case=unfit_labels())
def test_a_label_that_is_no_class_is_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """A label outside the classes, or of another dtype than int64, is an error that says so."""
    scores, labels, error, message = case
    before = bits(scores), bits(labels)

    with pytest.raises(error, match=message):
        loss_fn(scores, labels)

    assert (bits(scores), bits(labels)) == before, "what is refused stays as it was"


def test_the_error_about_a_label_says_which_there_are() -> None:
    """Classes are counted from 0, so that the last is one less than their number."""
    with pytest.raises(ValueError, match="of the 3 classes, numbered from 0 to 2"):
        nll_loss(torch.zeros(1, 3), torch.tensor([3]))


@pytest.mark.parametrize(
    ("loss_fn", "torchs"), [(nll_loss, F.nll_loss), (cross_entropy, F.cross_entropy)]
)
def test_without_options_a_loss_is_torchs(
    loss_fn: Callable[[Tensor, Tensor], Tensor], torchs: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """The mean over the examples whose label is not -100, each of the same weight."""
    scores = torch.tensor([[1.0, 3.0], [0.0, 0.5], [2.0, 0.0]]).log_softmax(dim=1)
    labels = torch.tensor([0, -100, 1])

    assert close(loss_fn(scores, labels), torchs(scores, labels))


@pytest.mark.parametrize("loss_fn", [nll_loss, cross_entropy])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), "there are no examples"),
        (torch.zeros(2, 1), torch.tensor([-100, -100]), "there are no examples"),
        (torch.zeros(2, 1), torch.tensor([[0], [0]]), "one label for each example"),
        (torch.zeros(1), torch.tensor(0), "one label for each example"),
        (torch.zeros(2, 1, 3), torch.zeros(3, 2, dtype=torch.int64), "one label for each example"),
    ],
)
def test_a_loss_of_nothing_and_labels_of_another_shape_are_refused(
    loss_fn: Callable[[Tensor, Tensor], Tensor], scores: Tensor, labels: Tensor, message: str
) -> None:
    """Where torch gives NaN for no examples or for ignored ones alone, there is an error."""
    with pytest.raises(ValueError, match=message):
        loss_fn(scores, labels)


# ------------------------------------------------- Adam and SGD


def adam(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Build Adam without the epsilon that keeps it from dividing by zero."""
    return torch.optim.Adam(parameters, lr=lr, eps=0)


def sgd(parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    """Build SGD, whose step is the rate times the gradient."""
    return torch.optim.SGD(parameters, lr=lr)


class WrittenAdam(torch.optim.Optimizer):
    """Adam by hand, for the mistakes to change one line of."""

    def __init__(self, parameters: list[Tensor], lr: float) -> None:
        """Keep the parameters and the rate."""
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter by its mean gradient over the root of its mean square."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                gradient, t = parameter.grad, state.get("t", 0) + 1
                state["t"] = t
                state["mean"] = 0.9 * state.get("mean", 0) + 0.1 * gradient
                state["square"] = 0.999 * state.get("square", 0) + 0.001 * self.squared(gradient)
                parameter -= group["lr"] * self.ratio(state["mean"], state["square"], t)

    def squared(self, gradient: Tensor) -> Tensor:
        """Return what the second moment averages."""
        return gradient**2

    def ratio(self, mean: Tensor, square: Tensor, t: int) -> Tensor:
        """Return the direction: both moments corrected for having begun at zero."""
        return mean / (1 - 0.9**t) / (square / (1 - 0.999**t)).sqrt()


class ForgetsBiasCorrection(WrittenAdam):
    """Take the moments as they are, which begin at zero."""

    def ratio(self, mean: Tensor, square: Tensor, t: int) -> Tensor:
        """Return the direction without a correction."""
        return mean / square.sqrt()


class SharesSecondMoment(WrittenAdam):
    """Keep one second moment for all the parameters of a row."""

    def squared(self, gradient: Tensor) -> Tensor:
        """Return the mean of the squares."""
        return (gradient**2).mean(dim=-1, keepdim=True).expand_as(gradient)


class ForgetsTheRoot(WrittenAdam):
    """Divide by the second moment itself."""

    def ratio(self, mean: Tensor, square: Tensor, t: int) -> Tensor:
        """Return a direction that depends on the gradient's scale."""
        return mean / (1 - 0.9**t) / (square / (1 - 0.999**t))


Optimizer = Callable[..., torch.optim.Optimizer]
FACTORS = (1.0, 2.0, 0.5, 1e-6, 1e3, 1e6)


@st.composite
def slopes(draw: st.DrawFn, max_steps: int = 4) -> Tensor:
    """Draw the gradients of a few steps, (steps, d), none of them zero."""
    steps, d = draw(st.integers(1, max_steps)), draw(st.integers(1, 3))
    sizes = st.sampled_from([1.0, -1.0, 2.0, -3.0, 1e-3, -1e3])
    values = draw(st.lists(sizes, min_size=steps * d, max_size=steps * d))
    return torch.tensor(values, dtype=torch.float64).view(steps, d)


def walk(build: Optimizer, gradients: Tensor, *, lr: float) -> Tensor:
    """Return where a parameter that starts at zero ends after steps with these gradients."""
    parameter = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = build([parameter], lr=lr)
    for gradient in gradients:
        optimizer.zero_grad()
        (gradient * parameter).sum().backward()
        optimizer.step()
    return parameter.detach()


@claim(
    "validation.adam-is-faster-not-better",
    right=adam,
    wrong={
        sgd: "leaves the path",
        ForgetsTheRoot: "leaves the path",
        SharesSecondMoment: "leaves the path",
    },
)
@given(gradients=slopes(), data=st.data())
def test_adam_does_not_see_the_scale_of_the_loss(
    build: Optimizer, gradients: Tensor, data: st.DataObject
) -> None:
    """A loss multiplied by any c > 0, even by another c for each parameter, changes no step."""
    d = gradients.shape[1]
    factors = data.draw(st.lists(st.sampled_from(FACTORS), min_size=d, max_size=d), label="c")
    scale = torch.tensor(factors, dtype=torch.float64)

    scaled = walk(build, gradients * scale, lr=0.1)

    assert close(scaled, walk(build, gradients, lr=0.1)), "a factor of the loss leaves the path"


@claim(
    "validation.adam-is-faster-not-better",
    right=sgd,
    wrong={adam: "scales the first step"},
)
@given(gradients=slopes(max_steps=1), scale=st.sampled_from(FACTORS))
def test_the_first_step_of_sgd_scales_with_the_loss(
    build: Optimizer, gradients: Tensor, scale: float
) -> None:
    """A loss multiplied by c takes SGD c times as far in the first step."""
    step = walk(build, gradients, lr=0.1)

    scaled = walk(build, scale * gradients, lr=0.1)

    assert close(scaled, scale * step, atol=0), "a factor of the loss scales the first step"


@claim(
    "validation.adam-is-faster-not-better",
    right=adam,
    wrong={
        ForgetsBiasCorrection: "lr in size",
        SharesSecondMoment: "lr in size",
        sgd: "lr in size",
    },
)
@given(gradients=slopes(max_steps=1), lr=st.sampled_from([1.0, 0.1, 1e-3]))
def test_the_first_step_of_adam_is_lr_for_each_parameter(
    build: Optimizer, gradients: Tensor, lr: float
) -> None:
    """However steep the loss, each parameter goes lr downhill in the first step."""
    step = walk(build, gradients, lr=lr)

    assert close(step, -lr * gradients[0].sign(), atol=0), "the first step is lr in size"


def ravines(d: int, condition: int, seed: int, runs: int = 100) -> tuple[Tensor, Tensor, Tensor]:
    """Return quadratics with curvatures from 1 / condition to 1, turned at random.

    Curvatures (runs, d), orthonormal axes (runs, d, d), starts (runs, d) along the axes.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    numbers = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    exponents = torch.rand(runs, d, **numbers)
    exponents[:, 0], exponents[:, 1] = 0, 1
    axes = torch.linalg.qr(torch.randn(runs, d, d, **numbers))[0]
    starts = torch.randn(runs, d, **numbers)
    device = torch.get_default_device()
    return (float(condition) ** -exponents).to(device), axes.to(device), starts.to(device)


def steps_of_gradient_descent(curvatures: Tensor, starts: Tensor, limit: int) -> Tensor:
    """Return how many steps SGD takes at the best stable rate to 1 % of the loss, in closed form.

    Along an axis of curvature h a step multiplies by 1 - lr h; the best rate is 2 / (the largest
    curvature plus the smallest).
    """
    rate = 2 / (curvatures.max(1, keepdim=True).values + curvatures.min(1, keepdim=True).values)
    t = torch.arange(limit + 1)[None, :, None]
    along = starts[:, None] * ((1 - rate * curvatures)[:, None]) ** t
    return first_below((curvatures[:, None] * along**2).sum(dim=2))


def first_below(losses: Tensor) -> Tensor:
    """Return the first step (runs,) whose loss, of (runs, steps), is 1 % of the start's, or inf."""
    arrived = losses <= 0.01 * losses[:, :1]
    steps = arrived.int().argmax(dim=1).double()
    return steps.where(arrived.any(dim=1), torch.tensor(math.inf, dtype=torch.float64))


@claim(
    "validation.adam-is-faster-not-better",
    right=torch.optim.Adam,
    wrong={torch.optim.SGD: "in fewer steps"},
    share=0.1,
    because="each example follows a hundred descents",
)
@given(d=st.integers(2, 5), condition=st.integers(300, 1000), seed=st.integers(0, 2**16))
def test_in_a_ravine_adam_takes_fewer_steps(
    build: Optimizer, d: int, condition: int, seed: int
) -> None:
    """At one fixed rate Adam mostly arrives before SGD at the best rate of each quadratic.

    A descent arrives at 1 % of the loss it began with. Adam won 96.8 % or more of 10,000 drawn
    quadratics of each kind. Even at 94 % fewer than 70 in a hundred come up once in 7e13 runs.
    """
    curvatures, axes, starts = ravines(d, condition, seed)
    limit = 300
    sgd_steps = steps_of_gradient_descent(curvatures, starts, limit)
    point = (axes @ starts[..., None])[..., 0].requires_grad_()
    optimizer = build([point], lr=0.1)
    losses = []

    for _ in range(limit + 1):
        optimizer.zero_grad()
        along = (axes.mT @ point[..., None])[..., 0]
        loss = (curvatures * along**2).sum(dim=1)
        losses.append(loss.detach())
        (loss / 2).sum().backward()
        optimizer.step()

    wins = int((first_below(torch.stack(losses, dim=1)) < sgd_steps).sum())
    assert wins >= 70, f"Adam arrives in fewer steps in most ravines, here in {wins} of 100"


@claim(
    "validation.adam-is-faster-not-better",
    right=sgd,
    wrong={adam: "in one step"},
)
@given(
    curvature=st.sampled_from([1.0, 0.5, 4.0, 100.0]),
    start=tensors(shapes(1, 1, min_side=1), torch.float64, max_magnitude=1e4),
)
def test_in_a_round_bowl_sgd_arrives_in_one_step(
    build: Optimizer, curvature: float, start: Tensor
) -> None:
    """Where all curvatures agree, SGD at the rate 1 / curvature is at the bottom at once."""
    parameter = start.clone().requires_grad_()
    optimizer = build([parameter], lr=1 / curvature)

    (curvature / 2 * (parameter**2).sum()).backward()
    optimizer.step()

    assert close(parameter, torch.zeros_like(start)), "the bottom is reached in one step"


# ------------------------------------------------- exp gives the probabilities back


def as_they_are(log_p: Tensor) -> Tensor:
    """Read the log-probabilities as probabilities."""
    return log_p


def softmax_again(log_p: Tensor) -> Tensor:
    """Apply softmax to probabilities."""
    return log_p.exp().softmax(1)


def powers_of_two(log_p: Tensor) -> Tensor:
    """Take powers of two for those of e."""
    return log_p.exp2()


@claim(
    "validation.exp-gives-the-probabilities-back",
    right=torch.exp,
    wrong={
        as_they_are: "sum to 1",
        softmax_again: "those of the softmax",
        powers_of_two: "sum to 1",
    },
)
@given(data=scores_and_labels(min_classes=2))
def test_the_exponential_of_the_log_softmax_is_the_softmax(
    invert: Callable[[Tensor], Tensor], data: Data
) -> None:
    """Each row of the exponentials sums to 1 and is the softmax of the scores."""
    scores, _ = data

    p = invert(F.log_softmax(scores, dim=1))

    assert close(p.sum(dim=1), torch.ones(len(scores))), "the probabilities sum to 1"
    expected = torch.as_tensor(softmax(scores.numpy(force=True)))
    assert close(p, expected), "the probabilities are those of the softmax"


# ------------------------------------------------- max gives values and indices


def over_the_examples(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Take the maximum over the batch dimension."""
    return tuple(torch.max(scores, dim=0))


def value_as_class(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Use the value itself as the class."""
    values = torch.max(scores, dim=dim).values
    return values, values.long()


def argmax_of_all(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Take the position in the flattened tensor."""
    return torch.max(scores, dim=dim).values, scores.argmax().expand(len(scores))


def by_magnitude(scores: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Look for the largest magnitude, which is often a negative score."""
    indices = scores.abs().argmax(dim=dim)
    return scores.gather(1, indices[:, None])[:, 0], indices


@claim(
    "validation.max-gives-value-and-index",
    right=torch.max,
    wrong={
        over_the_examples: "the largest score of each example",
        value_as_class: "points at the largest",
        argmax_of_all: "points at the largest",
        by_magnitude: "the largest score of each example",
    },
)
@given(data=scores_and_labels())
def test_max_gives_the_largest_score_and_its_class(
    largest: Callable[..., tuple[Tensor, Tensor]], data: Data
) -> None:
    """Values are the largest of each row; indices point at them, also after the softmax."""
    scores, _ = data

    values, indices = largest(scores, dim=1)

    rows = scores.tolist()
    assert values.tolist() == [max(row) for row in rows], "the largest score of each example"
    for row, index in zip(rows, indices.tolist(), strict=True):
        pointed = 0 <= index < len(row) and row[index] == max(row)
        assert pointed, "the index points at the largest score"
    for alike in (scores.log_softmax(1), scores.softmax(1)):
        # The softmax may round two scores to one, so the class need not be the same one.
        found = torch.max(alike, dim=1)
        chosen = alike.gather(1, indices[:, None])[:, 0]
        assert same(chosen, found.values), "the class is the largest after the softmax too"


def squeezes_the_one(scores: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
    """Expect topk(1) to drop its dimension as max does."""
    values, indices = torch.topk(scores, k, dim=dim)
    return values.squeeze(dim), indices.squeeze(dim)


@claim(
    "validation.max-gives-value-and-index",
    right=torch.topk,
    wrong={squeezes_the_one: "one column"},
)
@given(
    scores=tensors(
        shapes(2, 2, min_side=1), st.sampled_from(FLOATS), allow_nan=True, allow_infinity=True
    )
)
def test_topk_of_one_is_max_with_its_dimension_kept(
    topk: Callable[..., tuple[Tensor, Tensor]], scores: Tensor
) -> None:
    """topk(1) gives the values of max in a column, (N, 1)."""
    values, indices = topk(scores, 1, dim=1)

    assert values.shape == indices.shape == (len(scores), 1), "topk(1) gives one column"
    assert same(values[:, 0], torch.max(scores, dim=1).values), "its values are those of max"
    assert same(scores.gather(1, indices), values), "its indices point at them"


# ------------------------------------------------- the equality tensor

wholes = tensors(shapes(1, 3), torch.int64)


def broadcasts(predictions: Tensor, labels: Tensor) -> Tensor:
    """Compare topk's (N, 1) with the labels (N,)."""
    return predictions[:, None] == labels


def compares_objects(predictions: Tensor, labels: Tensor) -> Tensor:
    """Ask whether all of them are equal."""
    return torch.tensor(predictions.equal(labels))


@claim(
    "validation.equality-tensor",
    right=correct,
    wrong={broadcasts: "one entry for each", compares_objects: "one entry for each"},
)
@given(labels=wholes | wholes.map(lambda x: x + 2**53), data=st.data())
def test_a_comparison_has_one_entry_for_each_example(
    compare: Callable[[Tensor, Tensor], Tensor], labels: Tensor, data: st.DataObject
) -> None:
    """Equal shapes give a bool tensor of that shape, true where prediction and label agree."""
    # Neighbours of the labels, too: past 2**53 they are equal once they are floats.
    others = tensors(tuple(labels.shape), torch.int64) | st.sampled_from([labels + 1, labels - 1])
    predictions = data.draw(others, label="predictions")

    result = compare(predictions, labels)

    assert result.shape == labels.shape, "there is one entry for each example"
    assert result.dtype == torch.bool, "the entries are true or false"
    expected = predictions.numpy(force=True) == labels.numpy(force=True)
    assert (result.numpy(force=True) == expected).all(), "true where both agree"


@st.composite
def incomparable(draw: st.DrawFn) -> tuple[Tensor, Tensor, type[Exception], str]:
    """Draw predictions and labels of shapes that broadcast, or scores in the place of classes."""
    labels = draw(tensors(shapes(1, 1, min_side=1), torch.int64))
    if draw(st.booleans()):
        return labels.float(), labels, TypeError, "take the argmax"
    other = draw(st.sampled_from([labels[:, None], labels[None], labels[:, None, None]]))
    pair = (other, labels) if draw(st.booleans()) else (labels, other)
    return (*pair, ValueError, "would broadcast")


@claim(
    "validation.equality-tensor",
    right=correct,
    wrong={torch.eq: "DID NOT RAISE"},
)
@given(case=incomparable())
def test_what_would_broadcast_is_refused(
    compare: Callable[[Tensor, Tensor], Tensor], case: tuple[Tensor, Tensor, type[Exception], str]
) -> None:
    """(N, 1) against (N,) is an error, also for one example; so are scores against classes."""
    predictions, labels, error, message = case

    with pytest.raises(error, match=message):
        compare(predictions, labels)


# ------------------------------------------------- accuracy


def mean_of_the_broadcast(scores: Tensor, labels: Tensor) -> float:
    """Compare topk's (N, 1) with the labels (N,), and take the mean of the (N, N)."""
    return (scores.topk(1, dim=1).indices == labels).float().mean().item()


def truncates(scores: Tensor, labels: Tensor) -> float:
    """Make an integer of the share."""
    return int((scores.argmax(1) == labels).float().mean())


def divides_by_the_first_batch(scores: Tensor, labels: Tensor) -> float:
    """Divide what all batches got right by the size of the first."""
    return (scores.argmax(1) == labels).sum().item() / min(4, len(labels))


def takes_the_lowest(scores: Tensor, labels: Tensor) -> float:
    """Take the smallest score for the answer, as if it were a loss."""
    return (scores.argmin(1) == labels).float().mean().item()


# Strictly increasing also as bfloat16 computes them, for the integers that are drawn.
INCREASING: list[Callable[[Tensor], Tensor]] = [lambda x: 3 * x + 1, torch.exp, lambda x: x**3]


@claim(
    "validation.accuracy-is-the-mean",
    right=accuracy,
    wrong={
        mean_of_the_broadcast: "right ones divided by all",
        truncates: "right ones divided by all",
        divides_by_the_first_batch: "right ones divided by all",
        takes_the_lowest: "right ones divided by all",
    },
)
@given(data=st.data())
def test_accuracy_is_the_share_of_right_answers(
    accuracy: Callable[[Tensor, Tensor], float], data: st.DataObject
) -> None:
    """Neither the order of the examples nor an increasing function of the scores changes it."""
    classes = data.draw(st.integers(1, 4), label="classes")
    whole, labels = data.draw(drawn_batches(classes, classes, max_magnitude=9), label="batch")
    scores = whole.round().to(data.draw(st.sampled_from(FLOATS), label="dtype"))
    order = data.draw(st.permutations(range(len(labels))), label="order")
    increasing = data.draw(st.sampled_from(INCREASING))
    answers = whole.round().numpy(force=True).argmax(axis=1)
    right = sum(int(a == b) for a, b in zip(answers, labels.tolist(), strict=True))

    share = accuracy(scores, labels)

    assert share == right / len(labels), "the accuracy is the right ones divided by all"
    assert accuracy(scores[order], labels[order]) == share, "the order does not matter"
    assert accuracy(increasing(scores), labels) == share, "an increasing function changes nothing"


def converts_first(answers: Tensor) -> Tensor:
    """Change the type before taking the mean."""
    return answers.float().mean()


@claim(
    "validation.accuracy-is-the-mean",
    right=torch.mean,
    wrong={converts_first: "DID NOT RAISE"},
)
@given(answers=tensors(shapes(min_side=1), torch.bool))
def test_a_bool_tensor_has_no_mean_until_it_is_converted(
    mean: Callable[[Tensor], Tensor], answers: Tensor
) -> None:
    """Torch refuses the mean of a comparison; as floats it is the share of what is true."""
    with pytest.raises(RuntimeError, match="Bool"):
        mean(answers)

    assert close(answers.double().mean(), torch.tensor(np.mean(answers.numpy(force=True)))), (
        "converted, the mean is the share of what is true"
    )


def zero_for_nothing(scores: Tensor, labels: Tensor) -> float:
    """Guard the division by an empty set."""
    return float((scores.argmax(1) == labels.reshape(-1)).sum()) / max(1, len(labels))


def nan_for_nothing(scores: Tensor, labels: Tensor) -> float:
    """Let the mean of nothing be what it is."""
    return (scores.argmax(1) == labels.reshape(-1)).float().mean().item()


@claim(
    "validation.accuracy-is-the-mean",
    right=accuracy,
    wrong={zero_for_nothing: "DID NOT RAISE", nan_for_nothing: "DID NOT RAISE"},
)
@given(classes=st.integers(1, 5), labels_of=st.sampled_from([0, 1, 2]))
def test_accuracy_of_nothing_is_refused(
    accuracy: Callable[[Tensor, Tensor], float], classes: int, labels_of: int
) -> None:
    """Without examples, or with labels of another shape than one an example, there is an error."""
    scores = torch.zeros(labels_of, classes)
    labels = torch.zeros(labels_of, *([1] if labels_of else []), dtype=torch.int64)

    with pytest.raises(ValueError, match=r"no examples|one label for each example"):
        accuracy(scores, labels)


def transposed(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Let the rows stand for the predictions."""
    return confusion_matrix(predictions, labels, classes).T


def sized_by_the_labels(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Leave out the classes above the largest that occurs."""
    largest = int(torch.cat([predictions, labels]).max())
    return confusion_matrix(predictions, labels, classes=largest + 1)


def marks_once(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Add with an index, which counts a pair that comes twice once."""
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    matrix[labels, predictions] += 1
    return matrix


@claim(
    "validation.accuracy-is-the-mean",
    right=confusion_matrix,
    wrong={
        transposed: "row for its label",
        sized_by_the_labels: "one row and one column",
        marks_once: "row for its label",
    },
)
@given(data=st.data())
def test_the_confusion_matrix_counts_each_example(
    confusion: Callable[..., Tensor], data: st.DataObject
) -> None:
    """An example is counted in the row of its label and the column of its prediction."""
    classes = data.draw(st.integers(1, 4), label="classes")
    pair = st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))
    pairs = data.draw(st.lists(pair, min_size=1), label="labels with predictions")
    expected = np.zeros((classes, classes), dtype=int)
    for label, prediction in pairs:
        expected[label, prediction] += 1
    labels, predictions = torch.tensor(pairs).unbind(1)

    matrix = confusion(predictions, labels, classes)

    assert matrix.shape == expected.shape, "there is one row and one column for each class"
    assert matrix.tolist() == expected.tolist(), "an example is in the row for its label"


def by_column(confusion: Tensor) -> Tensor:
    """Divide by how often a class was predicted, which is its precision."""
    return confusion.diagonal() / confusion.sum(dim=0)


def of_all_examples(confusion: Tensor) -> Tensor:
    """Divide by the number of all examples."""
    return confusion.diagonal() / confusion.sum()


@claim(
    "validation.accuracy-is-the-mean",
    right=class_accuracies,
    wrong={
        by_column: "examples of its own",
        of_all_examples: "examples of its own",
    },
)
@given(data=scores_and_labels())
def test_the_accuracy_of_a_class_counts_its_own_examples(
    accuracies: Callable[[Tensor], Tensor], data: Data
) -> None:
    """A class's accuracy is that of its own examples, NaN without any; weighted it is the whole."""
    scores, labels = data
    answers = scores.argmax(dim=1)
    classes = scores.shape[1]

    by_class = accuracies(confusion_matrix(answers, labels, classes))

    for k in range(classes):
        own = (answers[labels == k] == k).numpy(force=True)
        expected = own.mean() if len(own) else math.nan
        assert np.isclose(by_class[k].item(), expected, equal_nan=True), (
            "the accuracy of a class is the share among examples of its own"
        )


@pytest.mark.parametrize("numbers", [(2, 0), (0, 2), (-1, 0)])
def test_a_confusion_of_other_classes_is_refused(numbers: tuple[int, int]) -> None:
    """A prediction or a label that is none of the classes would be counted in another's cell."""
    prediction, label = torch.tensor(numbers).split(1)
    with pytest.raises(ValueError, match="the classes are 0 to 1"):
        confusion_matrix(prediction, label, classes=2)


# ------------------------------------------------- over all batches


def logits_of(model: nn.Module, data: Data, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits and the labels of each batch, the model in eval mode."""
    with inference(model):
        for images, labels in batches(data, batch_size):
            yield model(images), labels


def mean_of_batch_means(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Average the batches' means, as the notes do: a small last batch counts like a large one."""
    pairs = list(logits_of(model, data, batch_size))
    losses = [F.cross_entropy(*pair).item() for pair in pairs]
    return Evaluation(sum(losses) / len(losses), sum(accuracy(*p) for p in pairs) / len(pairs))


def only_the_last_batch(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Assign where it should add up."""
    logits, labels = list(logits_of(model, data, batch_size))[-1]
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def returns_in_the_loop(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Return after the first batch."""
    logits, labels = next(logits_of(model, data, batch_size))
    return Evaluation(F.cross_entropy(logits, labels).item(), accuracy(logits, labels))


def divides_by_full_batches(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Divide by the number of batches times their size, as if the last were full."""
    pairs = list(logits_of(model, data, batch_size))
    n = len(pairs) * batch_size
    loss = sum(F.cross_entropy(*pair, reduction="sum").item() for pair in pairs)
    return Evaluation(loss / n, sum(accuracy(*pair) * len(pair[1]) for pair in pairs) / n)


def drops_the_last_batch(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Leave out a last batch that is not full, as drop_last does."""
    images, labels = data
    n = max(len(labels) // batch_size * batch_size, min(batch_size, len(labels)))
    return evaluate(model, (images[:n], labels[:n]), batch_size=batch_size)


def shows(scores: Tensor, dropout: float = 0.0) -> nn.Module:
    """Build a model whose logits are its inputs, which have the shape of `scores`."""
    layer = nn.Linear(scores.shape[1], scores.shape[1], bias=False, dtype=scores.dtype)
    nn.init.eye_(layer.weight)
    return nn.Sequential(nn.Dropout(dropout), layer)


def adds_up_means(model: nn.Module, data: Data, *, batch_size: int) -> Evaluation:
    """Add up the batches' mean losses, and divide by the number of examples."""
    losses = [F.cross_entropy(*pair).item() for pair in logits_of(model, data, batch_size)]
    return Evaluation(sum(losses) / len(data[1]), 0.0)


EACH_ONCE = "each example counts once"


@claim(
    "validation.evaluate-goes-over-all-batches",
    right=evaluate,
    wrong={
        mean_of_batch_means: EACH_ONCE,
        only_the_last_batch: EACH_ONCE,
        returns_in_the_loop: EACH_ONCE,
        divides_by_full_batches: EACH_ONCE,
        drops_the_last_batch: EACH_ONCE,
    },
)
@given(data=scores_and_labels(min_classes=2), batch_size=st.integers(1, 7))
def test_the_accuracy_does_not_depend_on_the_batches(
    evaluate: Callable[..., Evaluation], data: Data, batch_size: int
) -> None:
    """The accuracy is that of the whole set, whatever the batches and their order."""
    scores, labels = data
    right = (scores.numpy(force=True).argmax(axis=1) == labels.numpy(force=True)).sum()

    found = evaluate(shows(scores), data, batch_size=batch_size).accuracy

    expected = right / len(labels)
    assert abs(found - expected) < 1e-12, (
        f"each example counts once: {expected:.3g} of them are right, not {found:.3g}"
    )


@claim(
    "validation.evaluate-goes-over-all-batches",
    right=evaluate,
    wrong={mean_of_batch_means: EACH_ONCE, adds_up_means: EACH_ONCE},
)
@given(data=scores_and_labels(min_classes=2), batch_size=st.integers(1, 7))
def test_the_loss_does_not_depend_on_the_batches(
    evaluate: Callable[..., Evaluation], data: Data, batch_size: int
) -> None:
    """The loss is the mean of the whole set, whatever the batches and their order."""
    scores, labels = data

    found = evaluate(shows(scores), data, batch_size=batch_size).loss

    expected = mean_cross_entropy(scores, labels)
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), (
        f"each example counts once: the mean loss is {expected:.4g}, not {found:.4g}"
    )


def in_training_mode(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Evaluate as the model stands, with all that training does."""
    total, right = 0.0, 0.0
    model.train()
    for images, labels in batches(data, options.get("batch_size", 1000)):
        logits = model(images)
        total += options.get("loss_fn", F.cross_entropy)(logits, labels).item() * len(labels)
        right += accuracy(logits, labels) * len(labels)
    return Evaluation(total / len(data[1]), right / len(data[1]))


@claim(
    "validation.evaluate-goes-over-all-batches",
    right=evaluate,
    wrong={in_training_mode: "two evaluations agree"},
)
@given(data=scores_and_labels(min_classes=2), dropout=st.sampled_from([0.0, 0.5]))
def test_two_evaluations_agree(
    evaluate: Callable[..., Evaluation], data: Data, dropout: float
) -> None:
    """Nothing is drawn at random in an evaluation: dropout is off."""
    model = shows(data[0], dropout)

    results = [evaluate(model, data) for _ in range(2)]

    assert results[0] == results[1], "two evaluations agree"


def test_so_many_examples_are_evaluated_at_once_as_is_promised() -> None:
    """Few enough for the memory, and enough that calling the model hardly counts."""
    computed: list[int] = []
    model = nn.Identity()
    model.register_forward_hook(lambda _module, _inputs, logits: computed.append(len(logits)))

    evaluate(model, (torch.zeros(1001, 2), torch.zeros(1001, dtype=torch.int64)))

    assert computed == [1000, 1]


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ValueError, "no examples"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), ValueError, "3 images but 2 labels"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), ValueError, "label 2 is none of the 2 classes"),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), TypeError, "positions of classes"),
        (torch.zeros(2, 2), torch.tensor([[0], [1]]), ValueError, "one label for each example"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    images: Tensor, labels: Tensor, error: type[Exception], message: str
) -> None:
    """No examples, and labels that belong to none, are errors that say so."""
    model = nn.Sequential(nn.Dropout())
    before = state_of(model)

    with pytest.raises(error, match=message):
        evaluate(model, (images, labels))

    assert state_of(model) == before


# ------------------------------------------------- eval and train modes


class Noise(nn.Module):
    """Dropout that is always on, since it was not told the mode: a mistake of many models."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop a tenth of the values."""
        return F.dropout(x, 0.1)


@st.composite
def restless_networks(draw: st.DrawFn, features: int = 3, classes: int = 2) -> nn.Module:
    """Draw networks with all that a mode can change, each module in a mode of its own.

    Some parameters have a gradient, some are frozen.
    """
    inner = nn.Sequential(nn.Dropout(0.5), nn.ReLU())
    layers = [nn.Linear(features, 4), nn.BatchNorm1d(4), inner, nn.Linear(4, classes)]
    layers[1].running_mean.fill_(0.5)  # a mean of zero would hide that it is multiplied
    model = nn.Sequential(*layers, *[Noise()] * draw(st.booleans()))
    # One number for all switches shrinks in a few steps.
    switches = draw(st.integers(0, 2**14 - 1))
    for k, module in enumerate(model.modules()):
        module.training = bool(switches >> k & 1)
    note(f"(in training mode: {[name for name, m in model.named_modules() if m.training]})")
    for k, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(not switches >> k & 1)
        parameter.grad = torch.ones_like(parameter) if switches >> k & 2 else None
    return model


def modes_of(model: nn.Module) -> list[bool]:
    """Return the mode of each module."""
    return [module.training for module in model.modules()]


class BrokenError(Exception):
    """What a law raises in the middle of an evaluation."""


@contextmanager
def forgets_to_return(model: nn.Module) -> Iterator[nn.Module]:
    """Stay in eval mode."""
    with torch.no_grad():
        yield model.eval()


@contextmanager
def returns_to_train(model: nn.Module) -> Iterator[nn.Module]:
    """Call train() afterwards, whatever the mode was before."""
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train()


@contextmanager
def returns_by_the_top(model: nn.Module) -> Iterator[nn.Module]:
    """Put all modules into the mode that the outermost had."""
    training = model.training
    try:
        with torch.no_grad():
            yield model.eval()
    finally:
        model.train(training)


@contextmanager
def returns_unless_it_raises(model: nn.Module) -> Iterator[nn.Module]:
    """Restore the modes behind the block, where an error does not come by."""
    modes = modes_of(model)
    with torch.no_grad():
        yield model.eval()
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training


@contextmanager
def with_gradients(model: nn.Module) -> Iterator[nn.Module]:
    """Take eval mode for the switch of the gradients."""
    modes = modes_of(model)
    try:
        yield model.eval()
    finally:
        for module, training in zip(model.modules(), modes, strict=True):
            module.training = training


@claim(
    "validation.eval-and-train-modes",
    right=inference,
    wrong={
        forgets_to_return: "has its own mode back",
        returns_to_train: "has its own mode back",
        returns_by_the_top: "has its own mode back",
        returns_unless_it_raises: "has its own mode back",
        with_gradients: "no gradient is recorded",
    },
)
@given(model=restless_networks(), raises=st.booleans(), grad=st.booleans())
def test_inference_gives_each_module_its_mode_back(
    inference: Callable[[nn.Module], AbstractContextManager[nn.Module]],
    model: nn.Module,
    raises: bool,
    grad: bool,
) -> None:
    """Inside, all modules are in eval mode and nothing is recorded; afterwards all is as before."""
    before, modes = state_of(model), modes_of(model)

    with torch.set_grad_enabled(grad):
        with pytest.raises(BrokenError) if raises else nullcontext(), inference(model) as inside:
            assert inside is model, "the block gets the model itself"
            assert not any(modes_of(model)), "each module is in eval mode"
            assert not torch.is_grad_enabled(), "no gradient is recorded"
            if raises:
                raise BrokenError
        assert torch.is_grad_enabled() == grad, "recording is as it was"

    assert modes_of(model) == modes, "each module has its own mode back"
    assert state_of(model) == before, "parameters, buffers and gradients are as they were"


def clears_gradients(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Zero the gradients, as if this were a training step."""
    model.zero_grad()
    return evaluate(model, data, **options)


def shifts_the_random_numbers(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Let the model draw from the generator of the training."""
    with inference(model):
        losses = [options["loss_fn"](model(x), y) for x, y in batches(data, options["batch_size"])]
    return Evaluation(torch.stack(losses).mean().item(), 0.0)


def seeds_the_evaluation(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Seed, to get the same noise each time."""
    torch.manual_seed(0)
    return evaluate(model, data, **options)


def restores_unless_it_raises(model: nn.Module, data: Data, **options: Any) -> Evaluation:
    """Put the modes back behind the loop."""
    modes = modes_of(model)
    model.eval()
    result = evaluate(model, data, **options)
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return result


@claim(
    "validation.eval-and-train-modes",
    right=evaluate,
    wrong={
        in_training_mode: "statistics are as they were",
        clears_gradients: "gradients",
        restores_unless_it_raises: "has its own mode back",
        shifts_the_random_numbers: "random state",
        seeds_the_evaluation: "random state",
    },
)
@given(
    model=restless_networks(),
    seed=st.integers(0, 3),
    fault=st.sampled_from(["none", "loss", "batch"]),
)
def test_an_evaluation_leaves_no_trace(
    evaluate: Callable[..., Evaluation], model: nn.Module, seed: int, fault: str
) -> None:
    """Modes, parameters, buffers, gradients and random state are as before, also after an error."""
    torch.manual_seed(seed)
    data = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 0, 1])
    calls = []

    def loss_fn(logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, or raise at the second batch."""
        calls.append(len(labels))
        if fault == "loss" and len(calls) == 2:
            raise BrokenError
        return F.cross_entropy(logits, labels)

    def stumble(module: nn.Module, inputs: Any) -> None:
        """Raise at the second batch, before the model sees it."""
        if fault == "batch" and calls:
            raise BrokenError

    model.register_forward_pre_hook(stumble)
    buffers = [bits(buffer) for buffer in model.buffers()]
    before, modes, random_state = state_of(model), modes_of(model), random_states()

    with pytest.raises(BrokenError) if fault != "none" else nullcontext():
        evaluate(model, data, loss_fn=loss_fn, batch_size=2)

    assert [bits(buffer) for buffer in model.buffers()] == buffers, "statistics are as they were"
    assert modes_of(model) == modes, "each module has its own mode back"
    assert state_of(model) == before, "parameters and gradients are as they were"
    # Apart from the assertion, which would explain the difference of 5,000 bytes for seconds.
    untouched = random_states() == random_state
    assert untouched, "the random state is as it was"


def random_states() -> list[bytes]:
    """Return the state of the generators that a model on the default device draws from."""
    device = torch.get_default_device()
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return [bits(state) for state in states]


def only_the_outermost(model: nn.Module) -> nn.Module:
    """Set the flag of the model and forget its parts."""
    model.training = False
    return model


def freezes(model: nn.Module) -> nn.Module:
    """Switch the gradients off too."""
    return model.eval().requires_grad_(False)


def nothing(model: nn.Module) -> nn.Module:
    """Take no_grad for all that inference needs."""
    return model.train()


@claim(
    "validation.eval-and-train-modes",
    right=nn.Module.eval,
    wrong={
        only_the_outermost: "reaches each module",
        nothing: "reaches each module",
        freezes: "gradients are a separate matter",
    },
)
@given(inputs=tensors((2, 3), max_magnitude=1e3), seed=st.integers(0, 2**16))
def test_eval_switches_layers_and_not_gradients(
    switch: Callable[[nn.Module], nn.Module], inputs: Tensor, seed: int
) -> None:
    """Dropout stops and BatchNorm uses its running statistics; gradients flow as before."""
    torch.manual_seed(seed)
    norm = nn.BatchNorm1d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model = nn.Sequential(nn.Sequential(norm, nn.Dropout(0.5)), nn.Sequential(nn.Dropout()))
    mean, variance = (b.double().numpy(force=True) for b in (norm.running_mean, norm.running_var))

    switch(model)
    outputs = model(inputs)

    assert not any(modes_of(model)), "eval reaches each module"
    expected = (inputs.double().numpy(force=True) - mean) / np.sqrt(variance + norm.eps)
    assert close(outputs, torch.as_tensor(expected), 1e-4, 1e-4), "it uses the running statistics"
    assert outputs.requires_grad, "gradients are a separate matter: they still flow"


# ------------------------------------------------- dropout


def never_rescales(x: Tensor, p: float, training: bool) -> Tensor:
    """Keep the survivors as they are."""
    return x * (torch.rand_like(x) >= p) if training else x


def drops_in_eval_too(x: Tensor, p: float, training: bool) -> Tensor:
    """Forget the mode."""
    return F.dropout(x, p)


def rescales_in_eval(x: Tensor, p: float, training: bool) -> Tensor:
    """Make up for the dropped values at inference, as the first paper did."""
    return never_rescales(x, p, training) if training else x * (1 - p)


def rescales_by_p(x: Tensor, p: float, training: bool) -> Tensor:
    """Divide by the probability of the dropped."""
    return never_rescales(x, p, training) / p if training and p else x


@claim(
    "validation.dropout-is-for-training",
    right=F.dropout,
    wrong={
        never_rescales: "0 or x / (1 - p)",
        drops_in_eval_too: "the identity in eval",
        rescales_in_eval: "the identity in eval",
        rescales_by_p: "0 or x / (1 - p)",
    },
)
@given(
    x=tensors(shapes(1, 2), max_magnitude=1e30),
    p=st.sampled_from([0.0, 0.5, 1.0, 0.1, 0.9]),
)
def test_dropout_zeroes_or_rescales_in_training_and_rests_in_eval(
    dropout: Callable[..., Tensor], x: Tensor, p: float
) -> None:
    """In training an element is 0 or x / (1 - p), in eval x; p = 0 keeps and p = 1 drops all."""
    dropped = dropout(x, p, training=True)
    rested = dropout(x, p, training=False)

    assert same(rested, x), "dropout is the identity in eval"
    rescaled = (x.double() / (1 - p if p < 1 else 1)).float()
    fits = (dropped == 0) | torch.isclose(dropped, rescaled, rtol=1e-6, atol=1e-40)
    assert bool(fits.all()), "an element is 0 or x / (1 - p)"
    assert p > 0 or same(dropped, x), "p = 0 keeps all"
    assert p < 1 or not dropped.any(), "p = 1 drops all"


def drops_whole_rows(x: Tensor, p: float, training: bool) -> Tensor:
    """Draw one number for each example."""
    return x * (torch.rand(len(x), 1) >= p) / (1 - p)


def drops_whole_columns(x: Tensor, p: float, training: bool) -> Tensor:
    """Draw one mask for the whole batch."""
    return x * (torch.rand(x.shape[1]) >= p) / (1 - p)


def repeats_a_row(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop in the second row what is dropped in the first."""
    mask = torch.rand(x.shape) >= p
    mask[1:2] = mask[:1]
    return x * mask / (1 - p)


def draws_once(x: Tensor, p: float, training: bool) -> Tensor:
    """Use the same mask in every step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mask = torch.rand(x.shape, device="cpu") >= p
    return x * mask.to(x.device) / (1 - p)


def keeps_with_p(x: Tensor, p: float, training: bool) -> Tensor:
    """Take p for the probability of being kept."""
    return x * (torch.rand_like(x) < p) / (1 - p)


def drops_exactly(x: Tensor, p: float, training: bool) -> Tensor:
    """Drop the first values, as many as p asks for, and not at random."""
    kept = torch.arange(x.numel()).view(x.shape) >= p * x.numel()
    return x * kept / (1 - p)


@claim(
    "validation.dropout-is-for-training",
    right=F.dropout,
    wrong={
        drops_whole_rows: "as often as p says",
        drops_whole_columns: "as often as p says",
        keeps_with_p: "as often as p says",
        drops_exactly: "as often as p says",
        repeats_a_row: "as often as chance",
        draws_once: "anew each time",
    },
)
@given(p=st.sampled_from([0.5, 0.1, 0.2, 0.8, 0.9]), seed=st.integers(0, 2**16))
def test_dropout_drops_each_element_on_its_own_with_probability_p(
    dropout: Callable[..., Tensor], p: float, seed: int
) -> None:
    """The dropped of all, of each row and of each column are binomial counts.

    So is, for each row and the one before it, the number of columns in which both are dropped or
    both kept, and for columns likewise. The 255 intervals share a false alarm of 1e-11. Two masks
    agree once in 1e300 times.
    """
    torch.manual_seed(seed)
    x = torch.full((64, 64), 3.0)

    outputs = dropout(x, p, training=True)
    dropped, again = outputs == 0, dropout(x, p, training=True) == 0

    counts = {64**2: [dropped.sum()], 64: [*dropped.sum(dim=0), *dropped.sum(dim=1)]}
    for n, drops in counts.items():
        low, high = binomial_interval(n, p, FALSE_ALARM / 255)
        ordinary = all(low <= int(drop) <= high for drop in drops)
        assert ordinary, f"of {n} elements as many are dropped as often as p says"
    low, high = binomial_interval(64, p**2 + (1 - p) ** 2, FALSE_ALARM / 255)
    for mask in (dropped, dropped.T):
        alike = (mask[1:] == mask[:-1]).sum(dim=1)
        assert all(low <= int(count) <= high for count in alike), (
            "neighbours are dropped together as often as chance has it"
        )
    assert not same(dropped, again), "the mask is drawn anew each time"
    kept = outputs[~dropped].double()
    assert close(kept, torch.full_like(kept, 3 / (1 - p)), 1e-6), "what is kept is x / (1 - p)"


# ------------------------------------------------- inference


def leaves_dropout_on(model: nn.Module, images: Tensor) -> Tensor:
    """Switch the gradients off and forget the mode."""
    with torch.no_grad():
        return model(images).softmax(1).cpu()


def keeps_the_graph(model: nn.Module, images: Tensor) -> Tensor:
    """Switch the mode and forget the gradients."""
    modes = modes_of(model)
    result = model.eval()(images).softmax(1).cpu()
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    return result


def squeezes(model: nn.Module, images: Tensor) -> Tensor:
    """Drop every axis of length one, that of a batch of one image too."""
    return predict(model, images).squeeze()


def returns_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Forget the softmax."""
    with inference(model):
        return model(images).cpu()


def over_the_images(model: nn.Module, images: Tensor) -> Tensor:
    """Take the softmax over the batch."""
    with inference(model):
        return model(images).softmax(0).cpu()


def centres_in_place(model: nn.Module, images: Tensor) -> Tensor:
    """Normalise the caller's images."""
    return predict(model, images.sub_(0.5))


def stays_in_eval(model: nn.Module, images: Tensor) -> Tensor:
    """Forget the way back."""
    return predict(model.eval(), images)


@st.composite
def models_and_images(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Draw a network with dropout, in training or in eval mode, and images for it."""
    features, classes = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    network = draw(networks([features, *draw(st.sampled_from([[], [4]])), classes]))
    model = nn.Sequential(nn.Dropout(0.5), network).train(draw(st.booleans()))
    layouts = ("contiguous", "permuted", "offset", "strided")
    shape = (draw(st.integers(1, 6)), features)
    return model, draw(tensors(shape, layouts=layouts, max_magnitude=10))


@claim(
    "validation.inference",
    right=predict,
    wrong={
        keeps_the_graph: "no graph",
        squeezes: "one row of probabilities for each image",
        returns_logits: "sum to 1",
        over_the_images: "sum to 1",
        centres_in_place: "the images are as they were",
        stays_in_eval: "the model is as it was",
    },
)
@given(drawn=models_and_images())
def test_each_image_gets_probabilities_and_no_graph(
    predict: Callable[[nn.Module, Tensor], Tensor], drawn: tuple[nn.Module, Tensor]
) -> None:
    """One row of probabilities an image, nothing to differentiate, and nothing changed."""
    model, images = drawn
    classes = model[1][-1].out_features
    before, image_bits = state_of(model), bits(images)

    result = predict(model, images)

    assert result.shape == (len(images), classes), "one row of probabilities for each image"
    assert close(result.sum(dim=1), torch.ones(len(images)), 1e-5), "the probabilities sum to 1"
    assert bool((result >= 0).all()), "no probability is negative"
    assert not result.requires_grad, "no graph is kept"
    assert bits(images) == image_bits, "the images are as they were"
    assert state_of(model) == before, "the model is as it was"


@claim(
    "validation.inference",
    right=predict,
    wrong={leaves_dropout_on: "the same probabilities", over_the_images: "the same probabilities"},
)
@given(drawn=models_and_images(), data=st.data())
def test_an_image_has_the_same_probabilities_in_any_company(
    predict: Callable[[nn.Module, Tensor], Tensor],
    drawn: tuple[nn.Module, Tensor],
    data: st.DataObject,
) -> None:
    """A second call and another cut into batches give the same probabilities."""
    model, images = drawn
    cut = data.draw(st.integers(0, len(images)), label="cut")

    result = predict(model, images)

    assert same(predict(model, images), result), "a second call gives the same probabilities"
    parts = torch.cat([predict(model, part) for part in (images[:cut], images[cut:])])
    assert close(parts, result, 1e-5, 1e-6), "a cut into batches gives the same probabilities"
    expected = softmax(copy.deepcopy(model).double().eval()(images.double()).numpy(force=True))
    assert close(result, torch.as_tensor(expected), 1e-3, 1e-5), "the same probabilities as float64"


# ------------------------------------------------- pictures


@given(runs=hnp.arrays(float, shapes(2, 2, min_side=1), elements=st.floats(0, 1)))
@settings(max_examples=10)  # a figure takes long beside a tensor
def test_runs_are_drawn_as_their_mean_between_the_lowest_and_the_highest(
    runs: NDArray[np.float64],
) -> None:
    """Each name has a line through the means, epoch by epoch, and a band that holds all runs."""
    panel = Panel("Accuracy", {"SGD": runs.tolist()}, levels={"chance": 0.1})

    (axes,) = compare_runs([panel]).axes

    line, level = axes.get_lines()
    epochs = np.arange(1, runs.shape[1] + 1)
    assert np.allclose(line.get_xydata(), np.stack([epochs, runs.mean(axis=0)], axis=1))
    assert set(level.get_ydata()) == {0.1}
    band = axes.collections[0].get_paths()[0].vertices
    for epoch, values in zip(epochs, runs.T, strict=True):
        heights = band[band[:, 0] == epoch, 1]
        assert np.allclose([heights.min(), heights.max()], [values.min(), values.max()])


@pytest.mark.parametrize(
    "panels", [[], [Panel("Loss", {"SGD": []})], [Panel("Loss", {"SGD": [[]]})]]
)
def test_pictures_without_a_run_are_refused(panels: list[Panel]) -> None:
    """An empty picture is an error that says what is missing."""
    with pytest.raises(ValueError, match="at least one run of one epoch"):
        compare_runs(panels)
