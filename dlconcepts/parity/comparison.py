"""Lesson 9, parity: every technique on every backend against its float64 result.

The tolerance follows from the unit roundoff of the dtype and the length of the sums
(`dlconcepts.parity.bounds`), carried through the same layers, gradients and steps
(`dlconcepts.parity.reference`). Planted faults (`dlconcepts.parity.faults`) show what it lets pass.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.parity.bounds import Arithmetic, Bounded, ulp
from dlconcepts.parity.reference import Reference, loss_of, softmax_of, step_of
from dlconcepts.support.checkpoint_files import load_file, save_file
from dlconcepts.support.runs import seeded
from dlconcepts.training import train_step
from dlconcepts.validation import evaluate, inference, predict

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STEPS = 3
CPU = torch.device("cpu")  # where weights are drawn, so that every device gets the same

Batch = tuple[Tensor, Tensor]
Triple = tuple[str, Tensor, Bounded]  # name, computed result, expected result


@dataclass(frozen=True)
class Subject:
    """A model, the module that runs (its compiled form, say), and the arithmetic of the bounds."""

    model: nn.Module
    run: nn.Module
    rule: Arithmetic

    @property
    def reference(self) -> Reference:
        return Reference.of(self.rule, self.model)

    def logits_of(self, images: Tensor) -> Bounded:
        return self.reference.forward(images)[-1]


Technique: TypeAlias = Callable[[Subject, Batch], Iterator[Triple]]


@dataclass(frozen=True)
class Comparison:
    """The worst element of a result: its name, its error, its bound, and their ratio.

    ulps: how many units in the last place one element must shift to exceed its bound: the minimum
    over all elements, and the median.
    """

    name: str
    error: float
    bound: float
    ratio: float
    ulps: tuple[float, float]

    @property
    def holds(self) -> bool:
        return self.ratio <= 1


def forward_pass(subject: Subject, batch: Batch) -> Iterator[Triple]:
    with inference(subject.run):
        computed = subject.run(batch[0])
    yield "logits", computed, subject.logits_of(batch[0])


def loss(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the mean cross-entropy in training mode."""
    computed = F.cross_entropy(subject.run.train()(batch[0]), batch[1])
    yield "loss", computed, loss_of(subject.rule, subject.logits_of(batch[0]), batch[1])[0]


def gradients(subject: Subject, batch: Batch) -> Iterator[Triple]:
    subject.run.zero_grad()
    F.cross_entropy(subject.run.train()(batch[0]), batch[1]).backward()
    expected = subject.reference.gradients(*batch)
    for name, parameter in subject.model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        yield name, gradient, expected[name]


def steps_with(make: Callable[[nn.Module], Optimizer], steps: int) -> Technique:
    """Return the technique of several steps, with a comparison after each step.

    The tolerance of several steps together would hide a fault in one. The technique stops before
    a step that may overflow, since the bounds cover rounding only.
    """

    def take_steps(subject: Subject, batch: Batch) -> Iterator[Triple]:
        """Yield the parameters and the optimizer state after each step."""
        rule, optimizer = subject.rule, make(subject.model)
        parameters = dict(subject.model.named_parameters())
        for number in range(1, steps + 1):
            before = subject.reference
            values, slopes = before.forward(batch[0]), before.gradients(*batch)
            if number > 1 and not rule.can_hold([*values, *slopes.values()]):
                return
            states = {n: copy.deepcopy(optimizer.state.get(p, {})) for n, p in parameters.items()}
            train_step(subject.run.train(), F.cross_entropy, optimizer, *batch)
            for name, parameter in parameters.items():
                given = states[name], before.weights[name], slopes[name]
                expected, moments = step_of(rule, optimizer, *given)
                yield f"{name}, step {number}", parameter.detach().clone(), expected
                state = optimizer.state.get(parameter, {})
                for part, moment in moments.items():
                    # The optimizer skips a parameter without a gradient and keeps no state for it.
                    found = state[part].clone() if part in state else torch.zeros_like(parameter)
                    yield f"{part} of {name}, step {number}", found, moment

    return take_steps


def evaluation(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the loss and the accuracy of `evaluate`."""
    found = evaluate(subject.run, batch)
    logits = subject.logits_of(batch[0])
    loss = torch.tensor(found.loss, dtype=batch[0].dtype, device="cpu")
    yield "loss", loss, loss_of(subject.rule, logits, batch[1])[0]
    # An accuracy is in doubt where rounding may exchange the two best classes.
    best = logits.value.argmax(dim=1)
    least = (logits.value - logits.error).gather(1, best[:, None])
    others = (logits.value + logits.error).scatter(1, best[:, None], -math.inf)
    doubtful = (others >= least).any(dim=1).double().mean()
    share = (best == batch[1].cpu()).double().mean()
    accuracy = torch.tensor(found.accuracy, dtype=torch.float64, device="cpu")
    yield "accuracy", accuracy, Bounded(share, doubtful)


def prediction(subject: Subject, batch: Batch) -> Iterator[Triple]:
    expected = softmax_of(subject.rule, subject.logits_of(batch[0]))
    yield "probabilities", predict(subject.run, batch[0]), expected


def transforms(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield normalised bytes, in float32 whatever the dtype of the model."""
    pixels = (batch[0].float() * 64 + 128).clamp(0, 255).to(torch.uint8)
    rule = Arithmetic.of(torch.float32)
    shares = rule.stored(Bounded.exact(pixels.cpu().double() / 255))
    half = Bounded.exact(torch.full_like(shares.value, -0.5))
    expected = rule.scale(rule.add(shares, half), 2)
    yield "normalised", normalize(pixels), expected


def checkpoint(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the parameters read back from a file, which must be exact, and their logits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pt")
        save_file(subject.model.state_dict(), path)
        state = load_file(path)
    for name, parameter in subject.model.named_parameters():
        yield name, state[name], Bounded.exact(parameter)
    subject.model.load_state_dict(state)
    yield from forward_pass(subject, batch)


def adam_eps(model: nn.Module) -> float:
    """Return PyTorch's default eps of Adam, or the smallest whose square the dtype can hold.

    In float16 1e-8 is 0, and an element without a gradient would become 0 / 0.
    """
    dtype = next(model.parameters()).dtype
    return max(1e-8, math.sqrt(torch.finfo(dtype).smallest_normal))


OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD": lambda model: SGD(model.parameters(), lr=0.1),
    "SGD, momentum and decay": lambda model: SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01
    ),
    "Adam": lambda model: Adam(model.parameters(), eps=adam_eps(model)),
    "Adam, fused": lambda model: Adam(model.parameters(), eps=adam_eps(model), fused=True),
    "AdamW": lambda model: AdamW(model.parameters(), eps=adam_eps(model)),
}
TECHNIQUES: dict[str, Technique] = {
    "forward": forward_pass,
    "loss": loss,
    "gradients": gradients,
    **{f"1 step of {name}": steps_with(make, 1) for name, make in OPTIMIZERS.items()},
    **{f"{STEPS} steps of {name}": steps_with(make, STEPS) for name, make in OPTIMIZERS.items()},
    "evaluation": evaluation,
    "prediction": prediction,
    "transforms": transforms,
    "checkpoint": checkpoint,
}


def compare(triples: Iterable[Triple]) -> Comparison:
    """Compare computed with expected results, and return the worst element.

    Rounding alone cannot cause a ratio above 1 or NaN.
    Raises ValueError if a result has the wrong number of elements, or there is no result.

    >>> wrong = torch.tensor([1.0, 2.5])
    >>> bound = Bounded(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.25]))
    >>> compare([("result", wrong, bound)]).ratio
    2.0
    """
    worst, shifts = [], []
    for name, computed, expected in triples:
        values = computed.detach().cpu().double().reshape(-1)
        target, allowed = expected.value.reshape(-1), expected.error.reshape(-1)
        if values.shape != target.shape:
            raise ValueError(f"{name} has {values.numel()} elements, not {target.numel()}")
        errors = (values - target).abs()
        ratios = torch.where(errors == 0, 0.0, errors / allowed)
        ratios = ratios.masked_fill(ratios.isnan(), math.inf)
        at = int(ratios.argmax())
        figures = float(errors[at]), float(allowed[at]), float(ratios[at])
        worst.append((f"{name}, element {at}", *figures))
        units = ulp(computed).cpu().double().reshape(-1)
        shifts.append(torch.floor((allowed - errors).clamp(min=0) / units) + 1)
    if not worst:
        raise ValueError("there is no result to compare")
    every = torch.cat(shifts)
    ulps = float(every.min()), float(every.median())
    return Comparison(*max(worst, key=lambda found: found[3]), ulps=ulps)


def compiled(model: nn.Module) -> nn.Module:
    """Compile the whole model with TorchInductor, for batches of any size.

    Source: PyTorch documentation, `torch.compile`.
    """
    run: nn.Module = torch.compile(model, fullgraph=True, dynamic=True)  # type: ignore[assignment]
    return run


def why_not_compiled() -> str | None:
    """Return why TorchInductor cannot compile here, or None if it can.

    Any error other than a missing compiler is raised.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2))
    except RuntimeError as error:
        if "compiler" not in str(error):
            raise
        return f"TorchInductor finds no C++ compiler: {str(error).strip().splitlines()[0]}"
    return None


def dtypes_of(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the dtypes that a device supports: MPS has no float64."""
    return DTYPES[1:] if device.type == "mps" else DTYPES


def network(
    dtype: torch.dtype, device: torch.device, *, seed: int = 0, hidden: Sequence[int] = (128, 64)
) -> Network:
    """Return the course's network, 784-128-64-10, with weights drawn from a seed."""
    with seeded(seed, CPU), CPU:
        return Network(784, list(hidden), 10).to(device, dtype)


def convolution(dtype: torch.dtype, device: torch.device, *, seed: int = 0) -> nn.Sequential:
    """Return a network with a convolution, (N, 3, 8, 8) to (N, 10), in the layout channels_last."""
    with seeded(seed, CPU), CPU:
        layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)
        model = nn.Sequential(*layers).to(device, dtype)
    return model.to(memory_format=torch.channels_last)


@contextmanager
def precision(*, tf32: bool) -> Iterator[None]:
    """Allow TF32 or not for a block; turn off cuDNN, and sums of products in half precision.

    By default CUDA may sum parts of a float16 product in float16. cuDNN may use Winograd or Fourier
    convolutions, which are not sums of the products, so their error has no bound element by
    element. Without cuDNN, CUDA multiplies matrices of patches.
    Source: PyTorch documentation, "CUDA semantics": TensorFloat-32, and reduced precision
    reduction in FP16 and BF16 GEMMs; `torch.backends.cudnn.enabled`. Barabasz et al., "Error
    Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020.

    >>> with precision(tf32=False):
    ...     torch.backends.cudnn.enabled, torch.get_float32_matmul_precision()
    (False, 'highest')
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    wanted: list[tuple[Any, str, bool]] = [
        (cudnn, "enabled", False),
        (cudnn, "allow_tf32", tf32),
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    ]
    before = [(place, name, getattr(place, name)) for place, name, _ in wanted]
    matmul_precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    for setting in wanted:
        setattr(*setting)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
        for setting in before:
            setattr(*setting)
