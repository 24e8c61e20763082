"""Checks of what the loss is given: scores of the kind it expects, one for each target."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.batches import describe
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import copied, floats, on_tensors, rebuild, tensors

# What leaves the values as they are, or only their order: the operation behind it is looked for.
PASSING = {
    *("View", "UnsafeView", "Reshape", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T"),
    *("Permute", "Alias", "Clone", "ToCopy", "Slice", "Select", "Expand", "NativeDropout"),
    *("LogSoftmax", "Softmax"),
}
CUT_AT_ZERO = {"Relu", "ClampMin", "Clamp", "Threshold", "Hardtanh", "Maximum", "Where"}
SQUASHED = {"Sigmoid", "Hardsigmoid"}
FAR = 40.0  # where a sigmoid is 0 or 1
TRIES = 8  # a loss of absolute differences shows but the sign of each


class Recording:
    """A loss function that remembers what it was called with."""

    def __init__(self, loss_fn: Callable[..., Any]) -> None:
        """Wrap the project's own loss."""
        self.loss_fn = loss_fn
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Return the loss."""
        if len(arguments) == 2 and not named:
            self.calls.append(arguments)
        return self.loss_fn(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        """Have what the project's loss has."""
        return getattr(self.loss_fn, name)


def scores(project: Project) -> tuple[Any, Any]:
    """Return what the loss is called with in training: outputs, with their history, and targets."""
    model, optimizer = project.fresh_pair(training=True)
    trains = project.train_step is not None or project.fit is not None
    if trains and optimizer is not None:
        recording, own = Recording(project.loss_fn), project.loss_fn
        project.loss_fn = recording
        try:
            project.train(model, optimizer, [(project.inputs(), project.targets())])
        finally:
            project.loss_fn = own
        if recording.calls and floats(recording.calls[0][0]):
            outputs, targets = recording.calls[0]
            return outputs, targets
    model = project.fresh(training=True)
    return project.run(model, project.inputs()), project.targets()


def used(project: Project) -> list[tuple[Tensor, Tensor, Callable[..., Tensor]]]:
    """Return each output that the loss depends on, its targets, and the loss as a function of it.

    The function may be told which examples' targets to take, those of a row for each. It works on
    the CPU, where a loss that is given nonsense only raises.
    """
    if project.scored is None:  # the same for each check of a report
        project.scored = scores(project)
    outputs, targets = project.scored
    loss_fn = project.loss_fn
    if (
        isinstance(loss_fn, nn.Module)
        and next(iter(tensors(outputs).values())).device.type != "cpu"
    ):
        loss_fn = copy.deepcopy(loss_fn).cpu()  # the project goes on with its own
    plain = on_tensors(copied_detached(outputs), lambda tensor: tensor.cpu())
    plain_targets = on_tensors(copied_detached(targets), lambda tensor: tensor.cpu())
    found: list[tuple[Tensor, Tensor, Callable[..., Tensor]]] = []
    for path, output in floats(outputs).items():

        def loss(values: Tensor, rows: Tensor | None = None, path: str = path) -> Tensor:
            changed = rebuild(plain, lambda where, leaf: values if where == path else leaf)
            chosen = plain_targets if rows is None else project.pick_targets(plain_targets, rows)
            result = loss_fn(changed, copied(chosen))
            return torch.as_tensor(result).mean()

        if gradient(loss, floats(plain)[path]) is not None:
            found.extend((output, target, loss) for target in tensors(targets).values())
    return found


def copied_detached(tree: Any) -> Any:
    """Return a structure with copies of its tensors, without history."""
    return on_tensors(tree, lambda tensor: tensor.detach().clone())


def gradient(loss: Callable[[Tensor], Tensor], values: Tensor) -> Tensor | None:
    """Return the gradient of a loss at some values, None where it has none or raises."""
    leaf = values.detach().clone().requires_grad_()
    try:
        result: Tensor = torch.autograd.grad(loss(leaf), leaf)[0]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    return result


def random_like(output: Tensor, seed: int) -> Tensor:
    """Return values of a seed in the shape of an output."""
    generator = torch.Generator().manual_seed(seed)
    dtype = output.dtype if output.dtype == torch.float64 else torch.float32
    return torch.randn(output.shape, generator=generator, dtype=dtype, device="cpu")


def kind(output: Tensor, target: Tensor, loss: Callable[[Tensor], Tensor]) -> str:
    """Return what a loss does, seen by its gradient alone: what it is called does not matter.

    "cross-entropy" normalises scores by itself: adding a constant to a row changes nothing, and
    every class counts. "negative log-likelihood" is linear and picks one class. "binary
    cross-entropy" is flat where a large score is right, and steep where it is wrong.
    """
    if output.ndim < 1 or not output.numel():
        return ""
    here, there = (gradient(loss, random_like(output, seed)) for seed in range(2))
    if here is None or there is None:
        return ""
    classes = output.ndim >= 2 and output.shape[1] > 1
    if classes and not target.is_floating_point() and torch.equal(here, there):
        negative = (here < 0).sum(dim=1)
        if bool((here <= 0).all() and (negative <= 1).all() and negative.any()):
            return "negative log-likelihood"
    size = float(here.abs().max())
    if classes and float(here.sum(dim=1).abs().max()) < 1e-4 * size:
        counted = here.abs().sum(dim=1, keepdim=True) > 0  # not what ignore_index leaves out
        if bool(((here != 0) | ~counted).all()) and not torch.equal(here, there):
            return "cross-entropy"
    if target.numel() == output.numel() and bool(((target == 0) | (target == 1)).all()):
        positive = target.reshape(output.shape).cpu() == 1
        far = torch.full_like(here, FAR).where(positive, -FAR)
        right, wrong = gradient(loss, far), gradient(loss, -far)
        if right is None or wrong is None:
            return ""
        # No slope at all has what a loss of one's own leaves out.
        corrects = bool((wrong.sign() != far.sign()).all())
        if corrects and float(right.abs().max()) < 1e-4 * float(wrong.abs().max()):
            return "binary cross-entropy"
    return ""


def of_kind(project: Project, *wanted: str) -> list[tuple[Tensor, str]]:
    """Return the outputs that go into a loss of some kinds, each with its kind."""
    found = [(output, kind(output, target, loss)) for output, target, loss in used(project)]
    if not (found := [(output, what) for output, what in found if what in wanted]):
        not_checked(f"needs a loss that is a {' or a '.join(wanted)}")
    return found


def operation(output: Tensor, wanted: set[str]) -> str:
    """Return which of the wanted operations an output comes from, behind what passes values on."""
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
    "and confident wrong answers are hardly corrected",
    fix="return the logits; softmax, or sigmoid, is for reading probabilities only",
    needs=("model", "batch", "targets", "loss_fn"),
    reproducer="""
outputs = model.train()(inputs)
assert outputs.min() < 0 or outputs.max() > 1  # scores are not confined to probabilities
""",
)
def check_cross_entropy_is_given_logits(project: Project) -> None:
    """Check that a loss which normalises scores itself is given scores, not probabilities."""
    for output, what in of_kind(project, "cross-entropy", "binary cross-entropy"):
        values = output.detach()
        if bool(((values < 0) | (values > 1)).any()):
            continue
        sums = values.double().sum(dim=1) if values.ndim > 1 else values
        if what == "cross-entropy" and bool(((sums - 1).abs() < 1e-2).all()):
            classes = output.shape[1]
            least = torch.log1p(torch.tensor((classes - 1) / torch.e)).item()
            broken(
                f"{what} is given {describe(output)} values from {values.min():.3g} to "
                f"{values.max():.3g} that sum to 1 in each row: probabilities, with which the loss "
                f"of an example is never less than {least:.4f}"
            )
        if operation(output, SQUASHED):
            broken(
                f"{what} is given {describe(output)} values from {values.min():.3g} to "
                f"{values.max():.3g} that come from a sigmoid"
            )


@law(
    claim="validation.nll-expects-log-probabilities",
    concept="NLLLoss on what is not log-probabilities",
    why="NLLLoss takes no logarithm: on probabilities it saturates, on logits it falls without end",
    fix="log_softmax(dim=1) before NLLLoss, or the logits into CrossEntropyLoss",
    needs=("model", "batch", "targets", "loss_fn"),
    reproducer="""
outputs = model.train()(inputs)
assert torch.allclose(outputs.exp().sum(dim=1), torch.tensor(1.0), atol=1e-2)
""",
)
def check_nll_is_given_log_probabilities(project: Project) -> None:
    """Check that the exponentials of what NLLLoss is given sum to 1 for each example."""
    for output, _ in of_kind(project, "negative log-likelihood"):
        values = output.detach().double()
        sums = values.exp().sum(dim=1)
        if bool(((sums - 1).abs() < 0.1).all()):
            continue
        positive = bool((values >= 0).all() and ((values.sum(dim=1) - 1).abs() < 1e-2).all())
        over_batch = len(values) > 1 and bool(((values.exp().sum(dim=0) - 1).abs() < 1e-2).all())
        what = "probabilities" if positive else "logits"
        if over_batch:
            what = "log-probabilities over the batch dimension"
        broken(
            f"NLLLoss is given {what}: the exponentials of a row sum to {sums.min():.3g} to "
            f"{sums.max():.3g}, not to 1"
        )


@law(
    claim="networks.forward-chains-layers",
    concept="ReLU on the logits",
    why="a score below zero becomes zero and has no gradient: its class cannot be ruled out",
    fix="end the network with the Linear layer; activations belong between layers",
    needs=("model", "batch", "targets", "loss_fn"),
    reproducer="""
outputs = model.train()(inputs)
assert outputs.min() < 0 or (outputs != 0).all()
""",
)
def check_scores_are_not_cut_at_zero(project: Project) -> None:
    """Check that the scores of a classifier can be negative."""
    kinds = "cross-entropy", "binary cross-entropy", "negative log-likelihood"
    for output, what in of_kind(project, *kinds):
        if not (cut := operation(output, CUT_AT_ZERO)):
            continue
        values = output.detach()
        normalised = what == "negative log-likelihood"
        zeros = values == (values.amin(dim=1, keepdim=True) if normalised else 0)
        if normalised or (bool((values >= 0).all()) and bool(zeros.any())):
            broken(
                f"{what} is given scores that come from {cut}: of {describe(output)} none is "
                f"negative, and {zeros.double().mean():.0%} are cut off at one value"
            )


@law(
    claim="validation.equality-tensor",
    concept="Loss that broadcasts (N, 1) with (N,)",
    why="every output is compared with every target, and the model learns their mean",
    fix="give both one shape: outputs.squeeze(1), or targets.unsqueeze(1)",
    needs=("model", "batch", "targets", "loss_fn"),
    reproducer="""
outputs = model.train()(inputs).detach()
apart = torch.stack([loss_fn(o, t) for o, t in zip(outputs.reshape(-1), targets.reshape(-1))])
assert torch.allclose(loss_fn(outputs, targets), apart.mean(), rtol=1e-3)
""",
)
def check_the_loss_pairs_outputs_with_targets(project: Project) -> None:
    """Check that outputs and targets of other shapes are still compared one with one."""
    for output, target, loss in used(project):
        shape = broadcast(output, target)
        if shape is None or output.shape == target.shape:
            continue
        pairs = shape.numel()
        if pairs <= max(output.numel(), target.numel()) or not compares_all(output, target, loss):
            continue
        broken(
            f"outputs {describe(output)} and targets {describe(target)} were compared as "
            f"{tuple(shape)}: {pairs} pairs for {len(target)} examples"
        )


def broadcast(output: Tensor, target: Tensor) -> torch.Size | None:
    """Return the shape to which two tensors broadcast, None where they do not."""
    try:
        shape: torch.Size = torch.broadcast_shapes(output.shape, target.shape)
    except RuntimeError:
        return None
    return shape


def compares_all(output: Tensor, target: Tensor, loss: Callable[..., Tensor]) -> bool:
    """Return whether the gradient of an output depends on the targets of other examples.

    The targets of all others become those of the first, whose own gradient cannot notice where the
    loss compares one with one. The outputs are put among the targets: beyond them an absolute
    difference has one slope.
    """
    first = torch.zeros(len(target), dtype=torch.int64, device="cpu")
    among = target.detach().cpu().double()
    for seed in range(TRIES):
        values = random_like(output, seed) * among.std() + among.mean()
        before = gradient(loss, values)
        after = gradient(lambda leaf: loss(leaf, first), values)
        if before is None or after is None:
            return False
        if bool(((before - after)[0].abs() > 1e-5 * before.abs().max()).any()):
            return True
    return False
