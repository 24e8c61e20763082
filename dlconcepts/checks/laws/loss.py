"""Checks of what the loss gets: scores of the kind it expects, one for each target."""

import copy
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dlconcepts.checks.batches import describe
from dlconcepts.checks.project import Project
from dlconcepts.checks.recording import Calls, loss_arguments, scores
from dlconcepts.checks.registry import NotCheckedError, broken, law, not_checked
from dlconcepts.checks.trees import copied, floats, on_tensors, rebuild, tensors

# Operations that keep the values, or at least their order; the search looks behind them.
PASSING = {
    *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T"),
    *("Permute", "Alias", "Clone", "ToCopy", "Slice", "Select", "Expand", "NativeDropout"),
    *("LogSoftmax", "Softmax"),
}
CUT_AT_ZERO = {"Relu", "ClampMin", "Clamp", "Threshold", "Hardtanh", "Maximum", "Where"}
SQUASHED = {"Sigmoid", "Hardsigmoid"}
ADDITIONS = ("add", "radd", "iadd", "sub", "rsub", "isub")
CROSS_ENTROPY, BINARY = "cross-entropy", "binary cross-entropy"
LIKELIHOOD = "negative log-likelihood"
NEEDS = ("model", "batch", "loss_fn")
FAR = 40.0  # where a sigmoid is 0 or 1 in float32
TRIES = 8  # an L1 loss reveals only signs, so several draws are needed
Loss = Callable[..., Tensor]


def arguments_of(project: Project) -> tuple[Any, Any]:
    """Return the outputs and the targets that training passes to the loss."""
    arguments = loss_arguments(project)
    if len(arguments) != 2:
        not_checked("needs a loss_fn that training calls with outputs and targets")
    return arguments[0], arguments[1]


def used(project: Project) -> list[tuple[Tensor, Tensor, Loss]]:
    """Return each output that the loss depends on, its targets, and the loss as a function of it.

    With n, the number of targets, the function gives all of them the value of the first.
    """
    outputs, targets = arguments_of(project)
    loss_fn = project.loss_fn
    # On the CPU a loss that gets nonsense raises; on CUDA it would spoil the process.
    given, wanted = (on_tensors(x, lambda x: x.detach().cpu().clone()) for x in (outputs, targets))
    first = next(iter(tensors(outputs).values()))
    if isinstance(loss_fn, nn.Module) and first.device.type != "cpu":
        loss_fn = copy.deepcopy(loss_fn).cpu()

    def loss(path: str, values: Tensor, n: int = 0) -> Tensor:
        changed = rebuild(given, lambda where, leaf: values if where == path else leaf)
        alike = on_tensors(wanted, lambda x: x[:1].expand_as(x) if x.ndim and len(x) == n else x)
        return torch.as_tensor(loss_fn(changed, copied(alike))).mean()

    found: list[tuple[Tensor, Tensor, Loss]] = []
    for path, output in floats(outputs).items():
        of_output = partial(loss, path)
        if gradient(of_output, floats(given)[path]) is not None:
            found.extend((output, target, of_output) for target in tensors(targets).values())
    if not found:
        not_checked("needs an output that the loss depends on")
    return found


def gradient(loss: Loss, values: Tensor) -> Tensor | None:
    """Return the gradient of a loss, None if it has none or raises."""
    leaf = values.detach().clone().requires_grad_()
    with suppress(RuntimeError, ValueError, TypeError, IndexError):
        return torch.autograd.grad(loss(leaf), leaf)[0]
    return None


def random_like(output: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = output.dtype if output.dtype == torch.float64 else torch.float32
    return torch.randn(output.shape, generator=generator, dtype=dtype, device="cpu")


def kind(output: Tensor, target: Tensor, loss: Loss) -> str:
    """Return what a loss does, judged by its gradient alone, so that its name does not matter."""
    if output.ndim < 1 or not output.numel():
        return ""
    here, there = (gradient(loss, random_like(output, seed)) for seed in range(2))
    if here is None or there is None:
        return ""
    classes = output.ndim >= 2 and output.shape[1] > 1
    linear = torch.equal(here, there)
    # NLLLoss is linear, and picks one class of each example.
    picked = int((here < 0).sum(dim=1).max()) if classes else 0
    if picked == 1 and linear and bool((here <= 0).all()) and not target.is_floating_point():
        return LIKELIHOOD
    # Cross-entropy normalises: adding a constant to a row changes nothing, and every class counts.
    if classes and not linear and here.sum(dim=1).abs().max() < 1e-4 * here.abs().max():
        skipped = (here == 0).all(dim=1, keepdim=True)  # by ignore_index
        if bool(((here != 0) | skipped).all()):
            return CROSS_ENTROPY
    # Binary cross-entropy is flat where a large score is right, and steep where it is wrong.
    if is_binary(output, target):
        positive = target.reshape(output.shape).cpu() == 1
        far = torch.full_like(here, FAR).where(positive, -FAR)
        right, wrong = gradient(loss, far), gradient(loss, -far)
        if right is None or wrong is None:
            return ""
        # A custom loss may ignore an example; its gradient is then zero.
        corrects = bool((wrong.sign() != far.sign()).all())
        if corrects and float(right.abs().max()) < 1e-4 * float(wrong.abs().max()):
            return BINARY
    return ""


def is_binary(output: Tensor, target: Tensor) -> bool:
    """Return whether each output has a target, which is zero or one."""
    return target.numel() == output.numel() and bool(((target == 0) | (target == 1)).all())


def of_kind(project: Project, *wanted: str) -> list[tuple[Tensor, str]]:
    """Return the outputs that go into a loss of these kinds, each with its kind."""
    found = [(output, kind(output, target, loss)) for output, target, loss in used(project)]
    if not any(what in wanted for _, what in found):
        not_checked(f"needs a loss that is a {' or a '.join(wanted)}")
    return [(output, what) for output, what in found if what in wanted]


def operation(output: Tensor, wanted: set[str]) -> str:
    """Return which of the wanted operations an output comes from, empty if from none."""
    node: Any = output.grad_fn
    while node is not None:
        name = node.name().partition("Backward")[0]
        if name in wanted:
            return str(name)
        if name not in PASSING:
            return ""
        node = node.next_functions[0][0]
    return ""


@law(
    claim="validation.cross-entropy-expects-softmax",
    concept="Softmax before cross-entropy",
    why="the loss normalises again: it cannot fall below log(1 + (K-1)/e), 1.46 for ten classes, "
    "and a confident wrong answer gets almost no gradient",
    fix="return the logits; use softmax or sigmoid only to read probabilities",
    needs=NEEDS,
    reproducer="""
outputs = model.train()(inputs)
assert outputs.min() < 0 or outputs.max() > 1  # scores are not confined to probabilities
""",
)
def check_cross_entropy_is_given_logits(project: Project) -> None:
    """Check that a loss which normalises scores itself is given scores, not probabilities."""
    for output, what in of_kind(project, CROSS_ENTROPY, BINARY):
        values = output.detach()
        if bool(((values < 0) | (values > 1)).any()):
            continue
        seen = f"{what} is given {describe(output)} values from {values.min():.3g} to "
        seen += f"{values.max():.3g} that"
        if what == CROSS_ENTROPY and near_one(values.double().sum(dim=1)):
            least = math.log1p((output.shape[1] - 1) / math.e)
            broken(
                f"{seen} sum to 1 in each row: probabilities, with which the loss of an example is "
                f"never less than {least:.4f}"
            )
        if operation(output, SQUASHED):
            broken(f"{seen} come from a sigmoid")


def near_one(sums: Tensor, tolerance: float = 1e-2) -> bool:
    # Half-precision probabilities of many classes sum to 1 only roughly.
    return bool(((sums.double() - 1).abs() < tolerance).all())


@law(
    claim="validation.nll-expects-log-probabilities",
    concept="NLLLoss on values that are not log-probabilities",
    why="NLLLoss takes no logarithm: on probabilities it saturates, on logits it falls without end",
    fix="log_softmax(dim=1) before NLLLoss, or the logits into CrossEntropyLoss",
    needs=NEEDS,
    reproducer="""
outputs = model.train()(inputs)
assert torch.allclose(outputs.exp().sum(dim=1), torch.tensor(1.0), atol=1e-2)
""",
)
def check_nll_is_given_log_probabilities(project: Project) -> None:
    """Check that the exponentials of the scores that NLLLoss gets sum to 1 for each example."""
    divergences: list[Tensor] = []

    def look(name: str, arguments: list[Any], _: Any) -> None:
        divergences.extend([arguments[0].detach().double()] if name == "kl_div" else [])

    with Calls(look), suppress(NotCheckedError):
        arguments = scores(project)
        if project.trainer == "a plain step" and arguments:
            project.loss_fn(*arguments)
    for values in divergences:
        if bool((values >= 0).all()) and near_one(values.sum(dim=-1)):
            broken(f"kl_div is given probabilities, {describe(values)}, as its input")
    if divergences:
        return
    for output, _ in of_kind(project, LIKELIHOOD):
        if found := no_log_probabilities(output):
            broken(f"NLLLoss is given {found}")


def no_log_probabilities(output: Tensor) -> str:
    """Return what scores are, and what shows it, empty if they are log-probabilities."""
    values = output.detach().double()
    sums = values.exp().sum(dim=1)
    if near_one(sums, 0.1):  # wide: bfloat16 rounds this much
        return ""
    positive = bool((values >= 0).all()) and near_one(values.sum(dim=1))
    what = "probabilities" if positive else "logits"
    if len(values) > 1 and near_one(values.exp().sum(dim=0)):
        what = "log-probabilities over the batch dimension"
    span = f"{sums.min():.3g} to {sums.max():.3g}"
    return f"{what}: the exponentials of a row sum to {span}, not to 1"


@law(
    claim="networks.forward-chains-layers",
    concept="ReLU on the logits",
    why="a score below zero becomes zero and has no gradient: its class cannot be ruled out",
    fix="end the network with the Linear layer; activations belong between layers",
    needs=NEEDS,
    reproducer="""
outputs = model.train()(inputs)
assert outputs.min() < 0 or (outputs != 0).all()
""",
)
def check_scores_are_not_cut_at_zero(project: Project) -> None:
    """Check that the scores of a classifier can be negative."""
    for output, what in of_kind(project, CROSS_ENTROPY, BINARY, LIKELIHOOD):
        cut, share = cut_at_zero(output, normalised=what == LIKELIHOOD)
        if cut:
            broken(
                f"{what} is given scores that come from {cut}: of {describe(output)} none is "
                f"negative, and {share:.0%} are cut off at one value"
            )


def cut_at_zero(output: Tensor, *, normalised: bool) -> tuple[str, float]:
    """Return what cut off scores, empty if nothing did, and the share that it cut off."""
    values, cut = output.detach(), operation(output, CUT_AT_ZERO)
    # log_softmax shifts the zeros to another value.
    zeros = values == (values.amin(dim=1, keepdim=True) if normalised else 0)
    guilty = cut and (normalised or (bool((values >= 0).all()) and bool(zeros.any())))
    return cut if guilty else "", float(zeros.double().mean())


@law(
    claim="validation.equality-tensor",
    concept="Loss that broadcasts (N, 1) with (N,)",
    why="every output is compared with every target, and the model learns their mean",
    fix="give both one shape: outputs.squeeze(1), or targets.unsqueeze(1)",
    needs=NEEDS,
    reproducer="""
outputs = model.train()(inputs).detach()
apart = torch.stack([loss_fn(o, t) for o, t in zip(outputs.reshape(-1), targets.reshape(-1))])
assert torch.allclose(loss_fn(outputs, targets), apart.mean(), rtol=1e-3)
""",
)
def check_the_loss_pairs_outputs_with_targets(project: Project) -> None:
    """Check that the loss compares each output with one target, even if the shapes differ."""
    for output, target, loss in used(project):
        try:
            shape: torch.Size = torch.broadcast_shapes(output.shape, target.shape)
        except RuntimeError:
            continue
        pairs = shape.numel()
        if pairs <= max(output.numel(), target.numel()):
            continue
        with (seen := Largest()):  # type: ignore[no-untyped-call]
            gradient(loss, output.cpu())
        # A loss that squeezes its outputs computes nothing for each pair.
        if seen.most >= pairs and compares_all(output, target, loss):
            broken(
                f"outputs {describe(output)} and targets {describe(target)} were compared as "
                f"{tuple(shape)}: {pairs} pairs for {len(target)} examples"
            )


class Largest(TorchDispatchMode):
    """Sees how many elements the largest result of any operation has."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(x.numel() for x in tensors([result]).values())])
        return result


def compares_all(output: Tensor, target: Tensor, loss: Loss) -> bool:
    """Return whether the gradient of an output depends on the targets of other examples."""
    # All other examples get the target of the first, which leaves its own gradient alone unless
    # the loss compares all with all. The outputs lie among the targets: outside of them the slope
    # of an absolute difference is the same everywhere.
    among = target.detach().cpu().double()
    for seed in range(TRIES):
        values = random_like(output, seed) * among.std() + among.mean()
        before, after = gradient(loss, values), gradient(partial(loss, n=len(target)), values)
        if before is None or after is None:
            return False
        if bool(((before - after)[0].abs() > 1e-5 * before.abs().max()).any()):
            return True
    return False


@law(
    claim="autograd.backward-computes-gradients",
    concept="Term of a loss without a gradient",
    why="the term changes the figure and nothing else: the model does not learn from it",
    fix="write the term with softmax probabilities or another smooth function of the outputs, "
    "without argmax, comparisons, item or a new tensor",
    needs=NEEDS,
    reproducer="""
shape = model.train()(inputs).shape
start, end = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
climb = 0.0
for step in range(400):  # the gradient along a path adds up to the difference of the loss
    x = (start + (step + 0.5) / 400 * (end - start)).requires_grad_()
    climb += (torch.autograd.grad(loss_fn(x, targets), x)[0] * (end - start)).sum() / 400
difference = loss_fn(end, targets) - loss_fn(start, targets)
assert torch.isclose(climb, difference, rtol=0.1, atol=1e-3)
""",
)
def check_every_term_of_the_loss_has_a_gradient(project: Project) -> None:
    """Check that no number without a gradient that depends on the outputs is added to the loss."""
    outputs, targets = arguments_of(project)

    def added(shift: int) -> list[float]:
        """Return the numbers that the loss adds to one with a gradient, for shifted outputs."""
        terms: list[float] = []

        def look(name: str, arguments: list[Any], result: Any) -> None:
            is_loss = isinstance(result, Tensor) and not result.ndim and result.requires_grad
            if is_loss and len(arguments) == 2 and name in ADDITIONS:
                fixed = [float(x) for x in arguments if not getattr(x, "requires_grad", False)]
                terms.extend([x for x in fixed if x != float(arguments[0])] or fixed)

        plain = on_tensors(outputs, lambda x: x.detach().roll(shift, 0) if x.ndim else x.detach())
        leaves = on_tensors(copied(plain), lambda x: x.requires_grad_(x.is_floating_point()))
        with Calls(look):
            project.loss_fn(leaves, copied(targets))
        return terms

    first, again = added(0), added(0)
    for shift in (1, 2, 3):
        other = added(shift)
        for one, two, same in zip(first, other, again, strict=False):
            if one == same and not math.isclose(one, two, rel_tol=1e-4, abs_tol=1e-6):
                broken(
                    f"a number without a gradient is added to the loss: {one:.4g} for the outputs "
                    f"of one batch, {two:.4g} for the same outputs in another order"
                )
