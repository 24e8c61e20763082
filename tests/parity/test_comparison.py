"""The comparison with float64 at its edges, which the laws of lesson 9 do not reach."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic, Bounded, ulp
from dlconcepts.parity.comparison import Comparison, Subject, compare


def exceeding(triples: Iterable[parity.Triple]) -> list[str]:
    """Return the names of the results that exceed their bound."""
    return [triple[0] for triple in triples if not compare([triple]).holds]


def test_a_parameter_that_gets_no_gradient_exceeds_the_bound_of_a_step() -> None:
    """The parameter does not move, and the optimizer has no state for it."""
    model = parity.network(torch.float32, torch.device("cpu"))
    model.output.bias.requires_grad_(False)
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    triples = parity.steps_with(parity.OPTIMIZERS["Adam"], 1)(subject, batch)

    moments = (f"{moment} of output.bias, step 1" for moment in ("exp_avg", "exp_avg_sq"))
    assert exceeding(triples) == ["output.bias, step 1", *moments]


def test_a_parameter_without_a_gradient_is_compared_with_zero() -> None:
    """A missing gradient counts as zero, which exceeds the bound of this parameter only."""
    model = parity.network(torch.float32, torch.device("cpu"))
    model.output.bias.requires_grad_(False)
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    assert exceeding(parity.gradients(subject, batch)) == ["output.bias"]


@pytest.mark.parametrize(("second", "doubtful"), [(0.75, 0.5), (0.5, 0.5), (0.25, 0)])
def test_an_accuracy_is_in_doubt_where_rounding_may_exchange_the_two_best(
    second: float, doubtful: float
) -> None:
    """Two scores with an error of 0.25 each may change places if they differ by 0.5 or less.

    Only the first of the two examples can have such scores.
    """
    logits = torch.tensor([[1.0, second], [1.0, -1.0]])
    bound = Bounded(logits.double(), torch.full((2, 2), 0.25, dtype=torch.float64))
    subject: Any = SimpleNamespace(
        run=nn.Identity(),
        rule=Arithmetic.of(torch.float32),
        logits_of=lambda images: bound,
    )

    found = {
        name: expected
        for name, _, expected in parity.evaluation(subject, (logits, torch.tensor([0, 0])))
    }

    assert list(found) == ["loss", "accuracy"]
    assert float(found["accuracy"].error) == doubtful


def test_transforms_normalise_bytes_of_the_whole_range() -> None:
    """The bytes are made from the images, clamped to 0 and 255."""
    images = torch.tensor([[-3.0, 0.0, 1.0, 3.0]])
    subject = Subject(nn.Identity(), nn.Identity(), Arithmetic.of(torch.float32))

    ((name, computed, expected),) = parity.transforms(subject, (images, torch.tensor([0])))

    assert name == "normalised"
    wanted = torch.tensor([[0.0, 128.0, 192.0, 255.0]], dtype=torch.float64) / 127.5 - 1
    torch.testing.assert_close(expected.value, wanted)
    torch.testing.assert_close(computed.double(), wanted, rtol=0, atol=1e-6)


def test_each_result_has_its_name() -> None:
    """The tables and the laws print it."""
    model = parity.network(torch.float32, torch.device("cpu"))
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    def names(technique: parity.Technique) -> list[str]:
        return [name for name, *_ in technique(subject, batch)]

    assert names(parity.forward_pass) == ["logits"]
    assert names(parity.loss) == ["loss"]
    assert names(parity.prediction) == ["probabilities"]


def test_a_checkpoint_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are restored, and the current folder does not change."""
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(2, 2))
    subject = Subject(model, model, Arithmetic.of(torch.float32))

    names = [n for n, *_ in parity.checkpoint(subject, (torch.ones(1, 2), torch.tensor([0])))]

    assert names == ["0.weight", "0.bias", "logits"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_adams_eps_is_the_default_if_the_dtype_can_hold_its_square(dtype: torch.dtype) -> None:
    """In float16, where 1e-8 is zero, it is the smallest with a normal square."""
    eps = parity.adam_eps(nn.Linear(1, 1, dtype=dtype))

    own = torch.optim.Adam([torch.zeros(1)]).defaults["eps"]
    assert eps == (2**-7 if dtype == torch.float16 else own)


def test_mps_skips_float64() -> None:
    """The CPU has all dtypes, MPS all but this one."""
    assert parity.dtypes_of(torch.device("cpu")) == parity.DTYPES
    assert {*parity.DTYPES} - {*parity.dtypes_of(torch.device("mps"))} == {torch.float64}


def test_the_worst_of_all_results_is_named() -> None:
    """It has the largest ratio of error to bound; if all are exact, it is the first."""
    exact = Bounded(torch.zeros(3).double(), torch.tensor([1.0, 0.0, 1.0]).double())
    half = "half", torch.tensor([0.0, 0.0, -0.5]), exact
    none, none_else = ("none", torch.zeros(3), exact), ("none else", torch.zeros(3), exact)
    loose = "loose", torch.ones(1), Bounded(torch.zeros(1).double(), torch.full((1,), 9.0).double())

    for triples in ([none, half, none_else], [half, none, loose], [loose, none, half]):
        found = compare(triples)
        assert (found.name, found.error, found.bound) == ("half, element 2", 0.5, 1.0)
        assert found.ratio == 0.5
    found = compare([none, none_else])
    assert (found.name, found.error, found.ratio) == ("none, element 0", 0.0, 0.0)


def test_to_compare_nothing_is_an_error() -> None:
    """Without a result there is no comparison."""
    with pytest.raises(ValueError, match=r"^there is no result to compare$"):
        compare([])


def test_a_result_with_an_error_needs_a_smaller_shift_to_exceed_its_bound() -> None:
    """If the error is 2 of 3.5 allowed units, one more is within the bound, and two are not."""
    eps = torch.finfo(torch.float32).eps
    bound = Bounded(*(torch.tensor([x], dtype=torch.float64) for x in (1.5, 3.5 * eps)))

    def moved(units: int) -> parity.Comparison:
        return compare([("number", torch.tensor([1.5 + units * eps]), bound)])

    assert moved(2).ulps == (2, 2)
    assert moved(3).holds
    assert not moved(4).holds


def test_the_least_and_the_middle_shift_are_those_of_all_elements_together() -> None:
    """Results of any size count, element by element."""
    eps = torch.finfo(torch.float32).eps

    def result(units: list[float]) -> parity.Triple:
        ones = torch.ones(len(units))
        return "ones", ones, Bounded(ones.double(), eps * torch.tensor(units).double())

    found = compare([result([0.5]), result([7.5, 8.5, 2.5, 3.5])])

    assert found.ulps == (1, 4)


def test_the_convolution_is_channels_last_and_seeded() -> None:
    """The default seed of the convolution and of the network is 0."""
    cpu = torch.device("cpu")
    network = parity.network(torch.float32, cpu)
    assert network.output.bias.equal(parity.network(torch.float32, cpu, seed=0).output.bias)
    model = parity.convolution(torch.float32, cpu)

    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.equal(parity.convolution(torch.float32, cpu, seed=0)[0].weight)


@pytest.mark.parametrize(("can_hold", "steps"), [(False, 1), (True, 3)])
def test_the_first_step_is_always_compared(can_hold: bool, steps: int) -> None:
    """Later steps are compared only if they cannot overflow."""

    class Holds(Arithmetic):
        def can_hold(self, numbers: Any) -> bool:
            return can_hold

    model = parity.network(torch.float32, torch.device("cpu"))
    rule = Holds(**vars(Arithmetic.of(torch.float32)))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    take_steps = parity.steps_with(parity.OPTIMIZERS["Adam"], 3)
    names = [name for name, *_ in take_steps(Subject(model, model, rule), batch)]

    assert {name.rpartition(" ")[2] for name in names} == set("123"[:steps])


def test_the_compiler_gets_the_whole_model_for_any_number_of_examples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It compiles no pieces of a model, and does not compile again for each batch size."""
    model, given = nn.Identity(), {}
    monkeypatch.setattr(torch, "compile", lambda model, **options: given.update(options) or model)

    assert parity.compiled(model) is model
    assert given == {"fullgraph": True, "dynamic": True}


def test_without_a_compiler_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first line of torch's error; any other error is raised."""

    def compiles(message: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
        def call(x: Tensor) -> Tensor:
            if message:
                raise RuntimeError(message)
            return x

        return lambda function: call

    monkeypatch.setattr(torch, "compile", compiles("\nno working C++ compiler\nset CXX"))
    reason = parity.why_not_compiled()
    assert reason == "TorchInductor finds no C++ compiler: no working C++ compiler"
    monkeypatch.setattr(torch, "compile", compiles(""))
    assert parity.why_not_compiled() is None
    monkeypatch.setattr(torch, "compile", compiles("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        parity.why_not_compiled()


@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_a_diverging_training_is_compared_until_its_numbers_overflow(dtype: torch.dtype) -> None:
    """Bright images let SGD overshoot: every bound stays finite, and float16 stops early."""
    pixels = torch.tensor([8.0, 4.0, 0.0, -8.0], dtype=dtype)
    images, labels = pixels.repeat_interleave(784).view(4, 784), torch.tensor([3, 5, 9, 9])
    model = parity.network(dtype, torch.device("cpu"), seed=224)
    momentum = parity.OPTIMIZERS["SGD, momentum and decay"]
    subject = Subject(model, model, Arithmetic.of(dtype))

    triples = list(parity.steps_with(momentum, 30)(subject, (images, labels)))

    assert compare(triples).holds
    assert all(bool(bound.error.isfinite().all()) for _, _, bound in triples)
    steps = len({name.rpartition("step ")[2] for name, _, _ in triples})
    assert steps < 30 if dtype == torch.float16 else steps == 30


def test_a_result_of_another_size_is_an_error() -> None:
    """Only results with the expected number of elements are compared."""
    bound = Bounded.exact(torch.ones(2))

    with pytest.raises(ValueError, match="logits has 3 elements, not 2"):
        compare([("logits", torch.ones(3), bound)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_exceed_every_bound(value: float) -> None:
    """A comparison with NaN is false, so a naive `error > bound` would let it pass."""
    computed, bound = torch.tensor([1.0, value]), Bounded(torch.ones(2), torch.full((2,), 9.0))

    assert compare([("logits", computed, bound)]).ratio == math.inf


def test_the_reported_ulps_are_the_smallest_shift_that_is_caught() -> None:
    """One element off by the reported units exceeds the bound; off by one unit less it does not."""
    target = torch.tensor([1.0, -3.0, 0.25])
    bound = Bounded(target.double(), torch.tensor([1e-6, 1e-6, 1e-6], dtype=torch.float64))
    least = int(compare([("logits", target, bound)]).ulps[0])

    def moved(ulps: int) -> Comparison:
        # -3 has the largest ulp of the three, so it takes the fewest units.
        shift = torch.tensor([0.0, -ulps * float(ulp(target[1])), 0.0])
        return compare([("logits", target + shift, bound)])

    assert not moved(least).holds
    assert moved(least - 1).holds
