"""Compare strategies for tensors: speed, bugs found, and how simple the counterexamples are.

    pip install -e ".[bench]"
    python benchmarks/strategies.py

The peers run interleaved in one process: a bare seed -> randn strategy, this project's `tensors`,
hypothesis.extra.numpy and hypothesis-torch. The first table gives examples per second for float32
(64, 784), the median of the rounds. The second plants eight numeric bugs, and counts for how many
of five seeds each strategy finds them within 200 examples of shape (4, 3). `simple` is the share of
integers from -9 to 9 among the elements of the shrunk counterexamples, `zero` the share of zeros.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable

# An installed hypothesis-torch hooks into every test, and would slow its peers down.
os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"

import hypothesis.extra.numpy as hnp
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from dlconcepts.strategies import tensors

EXAMPLES = 200
SEEDS = range(5)
Strategy = st.SearchStrategy[Tensor]


def randn(shape: tuple[int, ...]) -> Strategy:
    def draw(number: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(number))

    return st.integers(0, 2**32 - 1).map(draw)


def from_numpy(shape: tuple[int, ...]) -> Strategy:
    finite = {"allow_nan": False, "allow_infinity": False}
    return hnp.arrays(np.float32, shape, elements=finite).map(torch.from_numpy)


def hypothesis_torch(shape: tuple[int, ...]) -> Strategy:
    from hypothesis_torch import tensor_strategy

    return tensor_strategy(
        dtype=torch.float32, shape=shape, layout=torch.strided, requires_grad=False
    )


STRATEGIES: dict[str, Callable[[tuple[int, ...]], Strategy]] = {
    "seed -> randn": randn,
    "dlconcepts.tensors": tensors,
    "hypothesis.extra.numpy": from_numpy,
    "hypothesis-torch": hypothesis_torch,
}


def close(result: Tensor, truth: Tensor) -> bool:
    """Return whether a result is within 1e-3 of the largest true element; NaN never is."""
    scale = truth.abs().max().clamp(min=1e-30)
    return bool(((result.double() - truth).abs() <= 1e-3 * scale).all())


def log_softmax_without_the_shift(x: Tensor) -> bool:
    return close(x - x.exp().sum(1, keepdim=True).log(), F.log_softmax(x.double(), 1))


def relu_at_zero(x: Tensor) -> bool:
    return torch.equal((x >= 0).float(), (x > 0).float())


def argmax_on_ties(x: Tensor) -> bool:
    last = x.shape[1] - 1 - x.flip(1).numpy().argmax(1)
    return bool((last == x.numpy().argmax(1)).all())


def division_by_a_zero_norm(x: Tensor) -> bool:
    return bool(torch.isfinite(x.double() / x.double().norm(dim=1, keepdim=True)).all())


def variance_of_a_constant_column(x: Tensor) -> bool:
    return bool(torch.isfinite(1 / x.double().var(0)).all())


def off_by_one_at_the_last_column(x: Tensor) -> bool:
    return close(x[:, :-1].sum(1), x.double().sum(1))


def sign_of_minus_zero(x: Tensor) -> bool:
    return torch.equal(torch.signbit(x), x < 0)


def loss_of_precision_at_1e4(x: Tensor) -> bool:
    x = x.clamp(-3e4, 3e4)
    return close((x * x).mean(0) - x.mean(0) ** 2, x.double().var(0, correction=0))


SLIPS = (
    log_softmax_without_the_shift,
    relu_at_zero,
    argmax_on_ties,
    division_by_a_zero_norm,
    variance_of_a_constant_column,
    off_by_one_at_the_last_column,
    sign_of_minus_zero,
    loss_of_precision_at_1e4,
)


def rate(strategy: Strategy, examples: int) -> float:
    """Return the examples per second."""
    ran = 0

    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def test(x: Tensor) -> None:
        nonlocal ran
        ran += 1

    started = time.perf_counter()
    test()
    return ran / (time.perf_counter() - started)


def counterexample(strategy: Strategy, law: Callable[[Tensor], bool], number: int) -> Tensor | None:
    """Return the shrunk tensor that breaks the law, or None if no example does."""
    broken = None

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def test(x: Tensor) -> None:
        nonlocal broken
        # hypothesis-torch always draws NaN and infinity too, and no bug here is about them.
        if x.isfinite().all() and not law(x):
            broken = x.clone()
            raise AssertionError

    try:
        test()
    except AssertionError:
        return broken
    return None


def simplicity(found: list[Tensor]) -> tuple[float, float]:
    """Return the share of small integers and of zeros among the elements."""
    elements = torch.cat([x.flatten() for x in found])
    simple = (elements.abs() <= 9) & (elements == elements.round())
    return simple.double().mean().item(), (elements == 0).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=300, help="examples per round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    # hypothesis-torch draws huge values, and converting them warns.
    warnings.simplefilter("ignore")

    rates: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    for _ in range(options.rounds + 1):
        for name, of_shape in STRATEGIES.items():
            slow = name.startswith("hypothesis")
            rates[name].append(rate(of_shape((64, 784)), options.examples // (5 if slow else 1)))
    median = {name: statistics.median(values[1:]) for name, values in rates.items()}
    speed = Table("strategy", "examples/s", "of seed -> randn", title="float32 (64, 784)")
    for name, value in median.items():
        speed.add_row(name, f"{value:.0f}", f"{value / median['seed -> randn']:.2f}")

    names = [slip.__name__.replace("_", " ") for slip in SLIPS]
    power = Table("slip", *STRATEGIES, title=f"found in {len(SEEDS)} seeds of {EXAMPLES} examples")
    found: dict[str, list[Tensor]] = {name: [] for name in STRATEGIES}
    totals = dict.fromkeys(STRATEGIES, 0)
    for title, slip in zip(names, SLIPS, strict=True):
        row = []
        for name, of_shape in STRATEGIES.items():
            results = [counterexample(of_shape((4, 3)), slip, number) for number in SEEDS]
            hits = [result for result in results if result is not None]
            found[name] += hits
            totals[name] += len(hits) == len(SEEDS)
            row.append(f"{len(hits)}/{len(SEEDS)}")
        power.add_row(title, *row)
    power.add_section()
    power.add_row("found in every seed", *(f"{n} of {len(SLIPS)}" for n in totals.values()))
    shares = [simplicity(found[name]) for name in STRATEGIES]
    power.add_row("simple once shrunk", *(f"{simple:.0%}" for simple, _ in shares))
    power.add_row("zero once shrunk", *(f"{zero:.0%}" for _, zero in shares))

    console = Console(width=110)
    console.print(speed)
    console.print(power)


if __name__ == "__main__":
    main()
