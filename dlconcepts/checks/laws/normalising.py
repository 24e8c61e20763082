"""The check that data is normalised once, on its way from the data set to the first layer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

from dlconcepts.checks.batches import is_pair, split
from dlconcepts.checks.laws.data import read, source_of
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import tensors

CONSTANTS = 16  # a mean or deviation for each channel has few elements
BYTES = 200  # a divisor from here on turns bytes into shares
KINDS = {"sub": "sub", "subtract": "sub", "div": "div", "divide": "div", "truediv": "div"}
KINDS |= {"true_divide": "div", "mul": "div", "multiply": "div"}


class Trace(TorchFunctionMode):
    """Follows tensors from one to the next and notes which constants they were shifted by.

    A normalisation is a constant subtracted, and then a constant divided or multiplied by. What
    comes out of an operation with a parameter of a layer is not followed any more.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        super().__init__()
        self.histories: dict[int, tuple[Tensor, tuple[str, ...]]] = {}
        self.observed = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and note what it did to the data."""
        given = [x for x in args if isinstance(x, Tensor)]
        before = given[0].detach().clone() if self._shifts(func, args) else None
        result = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            self._note(func, args, before, result)
        return result

    def _shifts(self, func: Any, args: Any) -> str:
        """Return which of the two halves of a normalisation a call is, empty for others."""
        kind = KINDS.get(name_of(func))
        if kind is None or len(args) < 2 or not isinstance(args[0], Tensor):
            return ""
        data, constant = args[0], args[1]
        if not isinstance(constant, Tensor):
            return kind
        small = constant.numel() <= CONSTANTS < data.numel()
        fits = small and not self.history(constant) and not isinstance(constant, nn.Parameter)
        return kind if fits else ""

    def _note(self, func: Any, args: Any, before: Tensor | None, result: Any) -> None:
        """Write down the history of a result."""
        found = list(tensors(list(args)).values())
        if any(isinstance(x, nn.Parameter) for x in found):
            return
        history = max((self.history(x) for x in found), key=len, default=())
        if before is not None and isinstance(result, Tensor) and result.is_floating_point():
            history = (*self.history(args[0]), self._step(func, args, before, result))
        for tensor in tensors([result]).values():
            if history:
                self.histories[id(tensor)] = tensor, history

    def history(self, tensor: Tensor) -> tuple[str, ...]:
        """Return what happened to a tensor so far."""
        return self.histories.get(id(tensor), (tensor, ()))[1]

    def _step(self, func: Any, args: Any, before: Tensor, result: Tensor) -> str:
        """Return one step of a history, and notice a second normalisation."""
        kind, constant = self._shifts(func, args), torch.as_tensor(args[1]).double()
        history = self.history(args[0])
        if kind == "sub":
            return f"sub {off(before):.6g} {float(constant.mean()):.6g}"
        if bool((constant.abs() >= BYTES).all()):
            if "mul" in name_of(func):
                return "scaled"
            if any(step == "bytes" for step in history):
                self.observed = self.observed or (
                    f"values were divided by {float(constant.mean()):.4g} twice: they end at "
                    f"{float(result.detach().abs().max()):.2g}"
                )
            return "bytes"
        if history and history[-1].startswith("sub"):
            scale = 1 / constant if "mul" in name_of(func) else constant
            self._judge(history, before, scale, result)
            return "normalised"
        return "scaled"

    def _judge(
        self, history: tuple[str, ...], before: Tensor, scale: Tensor, result: Tensor
    ) -> None:
        """Notice a normalisation of what was normalised, which takes it away from mean 0, std 1."""
        _, distance, mean = history[-1].split()
        earlier = "normalised" in history
        image = before.ndim >= 3 and 0 < float(mean) < 1 and bool((scale <= 1).all())
        negative = float(before.detach().min()) + float(mean) < -0.01
        if (earlier or (image and negative)) and off(result) > float(distance) + 0.1:
            values = result.detach().double()
            self.observed = self.observed or (
                f"data that was normalised already had {float(mean):.3g} subtracted and was scaled "
                f"again: its mean is {values.mean():.2f} and its deviation {values.std():.2f} now"
            )


def name_of(func: Any) -> str:
    """Return the name of an operation without its underscores, empty if it has none."""
    return str(getattr(func, "__name__", "")).strip("_")


def off(data: Tensor) -> float:
    """Return how far data is from mean 0 and deviation 1.

    >>> off(torch.tensor([-1.0, 1.0])) < off(torch.tensor([0.0, 1.0]))
    True
    """
    values = data.detach().double()
    deviation = values.std(correction=0).clamp(min=1e-9)
    return float(values.mean().abs() + deviation.log().abs())


@law(
    claim="networks.normalize-to-minus-one-one",
    concept="Data normalised twice",
    why="what was centred is shifted away again: pretrained weights meet numbers they never saw, "
    "and validation on data that was normalised once is about other inputs",
    fix="one Normalize for each path: in the transform, or in the model, not in both",
    needs=("data",),
    reproducer="""
seen = []
first = next(layer for layer in model.modules() if [*layer.parameters(recurse=False)])
first.register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[0]))
train_step(model, loss_fn, optimizer, inputs, targets)
assert abs(seen[0].mean()) < 0.75 and 0.2 < seen[0].std() < 5
""",
)
def check_data_is_normalised_once(project: Project) -> None:
    """Check that from the data set to the first layer data is normalised once at most."""
    data = project.training_data
    if project.one_pass:
        not_checked("needs a loader that can be read twice")
    seed_everything(0)
    trace = Trace()
    with trace:
        batch = traced_batch(data)
        inputs, targets = split(project.here(batch))
        if project.model is not None:
            train(project, inputs, targets)
    if trace.observed:
        broken(trace.observed)


def traced_batch(data: Any) -> Any:
    """Return a batch that is made here and now, not by workers."""
    if isinstance(data, DataLoader) and not isinstance(source_of(data), Iterable):
        return data.collate_fn(list(read(source_of(data), items=4)))
    if is_pair(data) or isinstance(data, Dataset):
        items = [tuple(torch.as_tensor(part) for part in item) for item in read(data, items=4)]
        return [torch.stack(parts) for parts in zip(*items, strict=True)]
    return next(iter(data))


def train(project: Project, inputs: Any, targets: Any) -> None:
    """Take a step on the very tensors that are followed, or else run the model."""
    if project.train_step is not None and project.optimizer is not None and targets is not None:
        model, optimizer = project.fresh_pair()
        project.train_step(model, project.loss_fn, optimizer, inputs, targets)
        return
    project.run(project.fresh(training=True), inputs)
