"""The check that data is normalised once between the data set and the first layer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, Dataset

from dlconcepts.checks.batches import is_pair, is_used_up
from dlconcepts.checks.laws.data import read, source_of
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.trees import tensors

CONSTANTS = 16  # elements: a mean or deviation has one for each channel
BYTES = 200  # a divisor this large turns bytes into shares; most use 255 or 256
KINDS = dict.fromkeys(("sub", "subtract"), "sub") | dict.fromkeys(("mul", "multiply"), "mul")
KINDS |= dict.fromkeys(("div", "divide", "truediv", "true_divide"), "div")
Step = tuple[str, float, float]
Steps = tuple[Step, ...]


class Trace(TorchFunctionMode):
    """Follows the data from tensor to tensor, and records how constants shift and scale it.

    A normalisation subtracts a constant, and then divides or multiplies by one. The data ends at
    the first operation with a parameter of a layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.histories: dict[int, tuple[Tensor, Steps]] = {}
        self.observed = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = self.kind_of(func, args)
        before = args[0].detach().clone() if kind else None  # the call may work in place
        result = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            found = list(tensors(list(args)).values())
            if any(isinstance(x, nn.Parameter) for x in found):
                return result
            history = max((self.history(x) for x in found), key=len, default=())
            if before is not None and isinstance(result, Tensor) and result.is_floating_point():
                history = self.history(args[0])
                history = (*history, self.step(kind, args[1], history, before, result))
            for tensor in tensors([result]).values():
                if history:
                    self.histories[id(tensor)] = tensor, history
        return result

    def kind_of(self, func: Any, args: Any) -> str:
        """Return sub, mul or div if a call shifts or scales data by a constant, else nothing."""
        kind = KINDS.get(str(getattr(func, "__name__", "")).strip("_"), "")
        fits = len(args) > 1 and isinstance(args[0], Tensor)
        if fits and isinstance(args[1], Tensor):
            data, constant = args[:2]
            small = constant.numel() <= CONSTANTS < data.numel()
            fits = small and not self.history(constant) and not isinstance(constant, nn.Parameter)
        return kind if fits else ""

    def history(self, tensor: Tensor) -> Steps:
        return self.histories.get(id(tensor), (tensor, ()))[1]

    def step(self, kind: str, by: Any, history: Steps, before: Tensor, result: Tensor) -> Step:
        """Return one step of a history, and observe a second normalisation."""
        constant, values = torch.as_tensor(by).double(), result.detach().double()
        if kind == "sub":
            return "sub", off(before), float(constant.mean())
        found, seen, earlier = "scaled", "", {name for name, *_ in history}
        for_bytes = bool((constant.abs() >= BYTES).all())
        if kind == "div" and for_bytes:
            found = "bytes"
            if found in earlier:
                seen = f"values were divided by {constant.mean():.4g} twice: they end at "
                seen += f"{values.abs().max():.2g}"
        elif not for_bytes and history and history[-1][0] == "sub":
            found, (_, distance, mean) = "normalised", history[-1]
            scale = 1 / constant if kind == "mul" else constant
            least, most = (float(x) + mean for x in before.detach().aminmax())
            # Image data normalised before has negative values; a mean in (0, 1) is for shares.
            is_image = before.ndim >= 3 and 0 < mean < 1 and bool((scale <= 1).all())
            if (found in earlier or (is_image and least < -0.01)) and off(result) > distance + 0.1:
                seen = f"data that was normalised already had {mean:.3g} subtracted and was scaled "
                seen += f"again: its mean is {values.mean():.2f} and its deviation "
                seen += f"{values.std():.2f} now"
            if is_image and most > BYTES / 2:
                seen = f"images up to {most:.4g} had {mean:.3g} subtracted, which is the mean of "
                seen += "images from 0 to 1: divide them by 255 first"
        self.observed = self.observed or seen
        return found, 0, 0


def off(data: Tensor) -> float:
    """Return how far data is from mean 0 and standard deviation 1."""
    values = data.detach().double()
    deviation = values.std(correction=0).clamp(min=1e-9)  # constant data has a logarithm then
    return float(values.mean().abs() + deviation.log().abs())


@law(
    claim="networks.normalize-to-minus-one-one",
    concept="Data normalised twice",
    why="the second shift moves centred data away: pretrained weights get numbers they never saw",
    fix="use one Normalize on each path: in the transform or in the model, not in both",
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
    """Check that data is normalised at most once between the data set and the first layer."""
    data = project.training_data
    if is_used_up(data):
        not_checked("needs a loader that can be read twice")
    seed_everything(0)
    with (trace := Trace()):
        batch = project.here(traced_batch(data))
        if project.model is not None:
            train(project, batch)
    if trace.observed:
        broken(trace.observed)


def traced_batch(data: Any) -> Any:
    """Return a batch that is made in this process, since a trace does not see into workers."""
    if isinstance(data, DataLoader) and not isinstance(source_of(data), Iterable):
        return data.collate_fn(list(read(source_of(data), items=4)))
    if is_pair(data) or isinstance(data, Dataset):
        return torch.utils.data.default_collate(list(read(data, items=4)))
    return next(iter(data))


def train(project: Project, batch: Any) -> None:
    """Train or run the model on the very tensors that the trace follows."""
    if project.train_step is not None:
        project.train(*project.fresh_pair(), [batch], copies=False)
        return
    project.feed(project.fresh(training=True), batch)
