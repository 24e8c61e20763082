"""Lesson 9, parity: every technique on every backend against its float64 result.

How far a result may be from the float64 one is not a matter of taste: it follows from the unit
roundoff of the dtype and the length of the sums (`dlconcepts.parity.bounds`), carried through the same
layers, gradients and steps (`dlconcepts.parity.reference`). What such a bound lets pass is measured too,
by planting faults (`dlconcepts.parity.faults`).
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.parity.bounds import Arithmetic, Bounded
from dlconcepts.parity.reference import (
    forward,
    gradients_of,
    layers_of,
    loss_of,
    softmax_of,
    step_of,
    weights_of,
)
from dlconcepts.support.checkpoint_files import load_file, save_file
from dlconcepts.training import train_step
from dlconcepts.validation import evaluate, inference, predict

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
STEPS = 3

Batch = tuple[Tensor, Tensor]
Triple = tuple[str, Tensor, Bounded]  # what it is, what was computed, what it should be


@dataclass(frozen=True)
class Subject:
    """A model, what runs in its place (its compiled form, say), and the arithmetic it keeps to."""

    model: nn.Module
    run: nn.Module
    rule: Arithmetic

    def logits_of(self, images: Tensor) -> Bounded:
        """Return the logits, with their error bounds."""
        return forward(self.rule, layers_of(self.model), weights_of(self.model), images)[-1]


Technique: TypeAlias = Callable[[Subject, Batch], Iterator[Triple]]


@dataclass(frozen=True)
class Comparison:
    """The worst element of a result: its name, its error, the error allowed, and their ratio.

    ulps: by how many units in the last place a single element must be off to be noticed: the
    element at which it takes the least, and the one in the middle of all.
    """

    name: str
    error: float
    bound: float
    ratio: float
    ulps: tuple[float, float]

    @property
    def holds(self) -> bool:
        """Whether the error is within the bound."""
        return self.ratio <= 1


# ------------------------------------------------- techniques


def forward_pass(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the logits."""
    with inference(subject.run):
        computed = subject.run(batch[0])
    yield "logits", computed, subject.logits_of(batch[0])


def loss(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the mean cross-entropy of a batch, in training mode."""
    computed = F.cross_entropy(subject.run.train()(batch[0]), batch[1])
    yield "loss", computed, loss_of(subject.rule, subject.logits_of(batch[0]), batch[1])[0]


def gradients(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the gradient of each parameter."""
    subject.run.zero_grad()
    F.cross_entropy(subject.run.train()(batch[0]), batch[1]).backward()
    weights = weights_of(subject.model)
    expected = gradients_of(subject.rule, layers_of(subject.model), weights, *batch)
    for name, parameter in subject.model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        yield name, gradient, expected[name]


def steps_with(make: Callable[[nn.Module], Optimizer], steps: int) -> Technique:
    """Return the technique of so many steps, each compared with the one from where it began.

    Looked at only after the last, what the first steps may be off would hide a fault of the others.
    It ends early where a number of the next step may be larger than any of the dtype: what
    overflows is not rounded.
    """

    def take_steps(subject: Subject, batch: Batch) -> Iterator[Triple]:
        """Yield the parameters, and what the optimizer remembers, after each step."""
        optimizer, layers = make(subject.model), layers_of(subject.model)
        parameters = dict(subject.model.named_parameters())
        for number in range(1, steps + 1):
            before = weights_of(subject.model)
            values = forward(subject.rule, layers, before, batch[0])
            slopes = gradients_of(subject.rule, layers, before, *batch)
            if number > 1 and not subject.rule.can_hold([*values, *slopes.values()]):
                return
            states = {n: copy.deepcopy(optimizer.state.get(p, {})) for n, p in parameters.items()}
            train_step(subject.run.train(), F.cross_entropy, optimizer, *batch)
            for name, parameter in parameters.items():
                expected, remembered = step_of(
                    subject.rule, optimizer, states[name], before[name], slopes[name]
                )
                yield f"{name}, step {number}", parameter.detach().clone(), expected
                kept = optimizer.state.get(parameter, {})
                for part, moment in remembered.items():
                    # A parameter that got no gradient is not stepped, and nothing is kept of it.
                    found = kept[part].clone() if part in kept else torch.zeros_like(parameter)
                    yield f"{part} of {name}, step {number}", found, moment

    return take_steps


def evaluation(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the loss and the accuracy of `evaluate`."""
    found = evaluate(subject.run, batch)
    logits = subject.logits_of(batch[0])
    dtype = batch[0].dtype
    yield "loss", _scalar(found.loss, dtype), loss_of(subject.rule, logits, batch[1])[0]
    best = logits.value.argmax(dim=1)
    least = (logits.value - logits.error).gather(1, best[:, None])
    others = (logits.value + logits.error).scatter(1, best[:, None], -math.inf)
    doubtful = (others >= least).any(dim=1).double().mean()
    share = (best == batch[1].cpu()).double().mean()
    yield "accuracy", _scalar(found.accuracy, torch.float64), Bounded(share, doubtful)


def _scalar(value: float, dtype: torch.dtype) -> Tensor:
    """Return a number of Python as a tensor on the CPU."""
    return torch.tensor(value, dtype=dtype, device="cpu")


def prediction(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the class probabilities of `predict`."""
    expected = softmax_of(subject.rule, subject.logits_of(batch[0]))
    yield "probabilities", predict(subject.run, batch[0]), expected


def transforms(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the normalised form of bytes, which is float32 whatever the dtype of the model."""
    pixels = (batch[0].float() * 64 + 128).clamp(0, 255).to(torch.uint8)
    rule = Arithmetic.of(torch.float32)
    shares = rule.stored(Bounded.exact(pixels.cpu().double() / 255))
    half = Bounded.exact(torch.full_like(shares.value, -0.5))
    expected = rule.scale(rule.add(shares, half), 2)
    yield "normalised", normalize(pixels), expected


def checkpoint(subject: Subject, batch: Batch) -> Iterator[Triple]:
    """Yield the state that comes back from a file, to the bit, and the logits it gives."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pt")
        save_file(subject.model.state_dict(), path)
        state = load_file(path)
    for name, parameter in subject.model.named_parameters():
        yield name, state[name], Bounded.exact(parameter)
    subject.model.load_state_dict(state)
    yield from forward_pass(subject, batch)


def adam_eps(model: nn.Module) -> float:
    """Return Adam's eps: torch's own, or one whose square the dtype can hold.

    float16 takes 1e-8 for 0, and an element without gradient would become 0 / 0.
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


# ------------------------------------------------- comparison


def compare(triples: Iterable[Triple]) -> Comparison:
    """Compare what was computed with what it should be, and return the worst element.

    A ratio of 1 is all that rounding can do; above it, and at NaN, something else is wrong.
    Raises ValueError if a result has another size than it should have, or there is none.

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
        shifts.append(smallest_shift(values, target, allowed, computed.dtype))
        worst.append((f"{name}, element {at}", *figures))
    if not worst:
        raise ValueError("there is no result to compare")
    every = torch.cat(shifts)
    ulps = float(every.min()), float(every.median())
    return Comparison(*max(worst, key=lambda found: found[3]), ulps=ulps)


def smallest_shift(values: Tensor, target: Tensor, allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return by how many ulps each element must be moved, away from its target, to be noticed.

    Source: Higham, section 2.1: an ulp of x is eps times the power of 2 at or below |x|.
    """
    info = torch.finfo(dtype)
    power = torch.floor(values.abs().clamp(min=info.smallest_normal).log2())
    ulp = torch.exp2(power) * info.eps
    return torch.floor((allowed - (values - target).abs()).clamp(min=0) / ulp) + 1


# ------------------------------------------------- backends


def compiled(model: nn.Module) -> nn.Module:
    """Return what TorchInductor compiles of a model, whole, for batches of any size.

    Source: PyTorch documentation, `torch.compile`.
    """
    run: nn.Module = torch.compile(model, fullgraph=True, dynamic=True)  # type: ignore[assignment]
    return run


def why_not_compiled() -> str | None:
    """Return why TorchInductor cannot compile here, or None if it can.

    Raises what `torch.compile` raises for any other reason than a compiler that is missing.
    """
    try:
        torch.compile(torch.sin)(torch.zeros(2))
    except RuntimeError as error:
        if "compiler" not in str(error):
            raise
        return f"TorchInductor finds no C++ compiler: {str(error).strip().splitlines()[0]}"
    return None


def dtypes_of(device: torch.device) -> tuple[torch.dtype, ...]:
    """Return the dtypes that a device computes in: MPS has no float64.

    >>> len(dtypes_of(torch.device("mps")))
    3
    """
    return DTYPES[1:] if device.type == "mps" else DTYPES


def network(dtype: torch.dtype, device: torch.device, *, seed: int = 0) -> Network:
    """Return the course's network, 784-128-64-10, with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return Network(784, [128, 64], 10).to(device, dtype)


def convolution(dtype: torch.dtype, device: torch.device, *, seed: int = 0) -> nn.Sequential:
    """Return a network with a convolution, (N, 3, 8, 8) to (N, 10), in the layout channels_last."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)
        model = nn.Sequential(*layers).to(device, dtype)
    return model.to(memory_format=torch.channels_last)


@contextmanager
def precision(*, tf32: bool) -> Iterator[None]:
    """Allow TF32 or not for a block, and have products summed in float32, as they are.

    Without it CUDA may sum parts of a float16 product in float16, and cuDNN may convolve in
    Winograd's or Fourier's way, whose sums are not those of the products: their error has no bound
    element by element, and one of norms only for a way that is known, which cuDNN's is not. It is
    off meanwhile, so that CUDA multiplies matrices of patches.
    Source: PyTorch documentation, "CUDA semantics": TensorFloat-32, and reduced precision
    reduction in FP16 and BF16 GEMMs; `torch.backends.cudnn.enabled`. Barabasz et al., "Error
    Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", 2020.

    >>> with precision(tf32=False):
    ...     torch.backends.cudnn.enabled, torch.get_float32_matmul_precision()
    (False, 'highest')
    """
    matmul = torch.backends.cuda.matmul
    before = (
        torch.get_float32_matmul_precision(),
        torch.backends.cudnn.enabled,
        torch.backends.cudnn.allow_tf32,
        matmul.allow_fp16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction,
    )

    def use(*values: object) -> None:
        """Set all five."""
        torch.set_float32_matmul_precision(values[0])  # type: ignore[arg-type]
        torch.backends.cudnn.enabled = values[1]  # type: ignore[assignment]
        torch.backends.cudnn.allow_tf32 = values[2]  # type: ignore[assignment]
        matmul.allow_fp16_reduced_precision_reduction = values[3]
        matmul.allow_bf16_reduced_precision_reduction = values[4]

    use("high" if tf32 else "highest", False, tf32, False, False)
    try:
        yield
    finally:
        use(*before)
