"""The machinery of parity at its edges, where the laws of lesson 9 do not lead it.

What is compared with what, under which name and from which seed; what a fault does that is planted;
and what is said where nothing can be compiled.
"""

import copy
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic, Bounded
from dlconcepts.parity.comparison import Subject, compare
from dlconcepts.parity.faults import (
    cut_to_tf32,
    drops_a_bias,
    moves_one_logit,
    multiplies_in_tf32,
    rounds_weights_to_bfloat16,
    sums_in_the_dtype,
    ulp,
)
from dlconcepts.parity.reference import softmax_of


def exceeding(triples: Iterable[parity.Triple]) -> list[str]:
    """Return the names of the results that exceed their bound."""
    return [triple[0] for triple in triples if not compare([triple]).holds]


def test_a_convolution_of_any_shape_keeps_its_bound() -> None:
    """Neither the images nor the kernel need be square."""
    draw = torch.Generator().manual_seed(0)
    sizes = (2, 3, 5, 7), (4, 3, 2, 3), (4,)
    images, weight, bias = (torch.randn(size, generator=draw) for size in sizes)
    rule = Arithmetic.of(torch.float32)

    bound = rule.convolve(*(Bounded.exact(tensor) for tensor in (images, weight, bias)))

    exact = F.conv2d(images.double(), weight.double(), bias.double())
    torch.testing.assert_close(bound.value, exact)
    assert ((F.conv2d(images, weight, bias) - exact).abs() <= bound.error).all()


def test_a_parameter_that_gets_no_gradient_exceeds_the_bound_of_a_step() -> None:
    """It stays where it is, and the optimizer remembers nothing of it: that is no step."""
    model = parity.network(torch.float32, torch.device("cpu"))
    model.output.bias.requires_grad_(False)
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    triples = parity.steps_with(parity.OPTIMIZERS["Adam"], 1)(subject, batch)

    moments = (f"{moment} of output.bias, step 1" for moment in ("exp_avg", "exp_avg_sq"))
    assert exceeding(triples) == ["output.bias, step 1", *moments]


def test_a_parameter_without_a_gradient_is_compared_with_zero() -> None:
    """What is missing counts as zero, which its own bound does not allow, and no other's."""
    model = parity.network(torch.float32, torch.device("cpu"))
    model.output.bias.requires_grad_(False)
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    assert exceeding(parity.gradients(subject, batch)) == ["output.bias"]


@pytest.mark.parametrize(("second", "doubtful"), [(0.75, 0.5), (0.5, 0.5), (0.25, 0)])
def test_an_accuracy_is_in_doubt_where_rounding_may_exchange_the_best(
    second: float, doubtful: float
) -> None:
    """Two scores of which each may be off by 0.25 change places if they are 0.5 apart or less.

    That is the case in one example of the two, if in any.
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


def test_the_table_normalises_bytes_of_the_whole_range() -> None:
    """They are made of the images, whatever those are."""
    images = torch.tensor([[-3.0, 0.0, 1.0, 3.0]])
    subject = Subject(nn.Identity(), nn.Identity(), Arithmetic.of(torch.float32))

    ((name, computed, expected),) = parity.transforms(subject, (images, torch.tensor([0])))

    assert name == "normalised"
    wanted = torch.tensor([[0.0, 128.0, 192.0, 255.0]], dtype=torch.float64) / 127.5 - 1
    torch.testing.assert_close(expected.value, wanted)
    torch.testing.assert_close(computed.double(), wanted, rtol=0, atol=1e-6)


def test_each_result_has_its_name() -> None:
    """By which the table and the laws tell what exceeds its bound."""
    model = parity.network(torch.float32, torch.device("cpu"))
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    batch = torch.ones(2, 784), torch.tensor([0, 1])

    def names(technique: parity.Technique) -> list[str]:
        """Return the names of what a technique yields."""
        return [name for name, *_ in technique(subject, batch)]

    assert names(parity.forward_pass) == ["logits"]
    assert names(parity.loss) == ["loss"]
    assert names(parity.prediction) == ["probabilities"]


def test_a_checkpoint_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights come back, and the folder where one works stays as it was."""
    monkeypatch.chdir(tmp_path)
    model = nn.Sequential(nn.Linear(2, 2))
    subject = Subject(model, model, Arithmetic.of(torch.float32))

    names = [n for n, *_ in parity.checkpoint(subject, (torch.ones(1, 2), torch.tensor([0])))]

    assert names == ["0.weight", "0.bias", "logits"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_adams_eps_is_torchs_own_wherever_the_dtype_holds_its_square(dtype: torch.dtype) -> None:
    """In float16, where 1e-8 is zero, it is the smallest whose square is a normal number."""
    eps = parity.adam_eps(nn.Linear(1, 1, dtype=dtype))

    own = torch.optim.Adam([torch.zeros(1)]).defaults["eps"]
    assert eps == (2**-7 if dtype == torch.float16 else own)


def test_no_device_computes_in_a_dtype_that_it_lacks() -> None:
    """MPS has no float64; it has the others, as has the CPU, which has all."""
    assert parity.dtypes_of(torch.device("cpu")) == parity.DTYPES
    assert {*parity.DTYPES} - {*parity.dtypes_of(torch.device("mps"))} == {torch.float64}


def test_the_worst_of_all_results_is_named() -> None:
    """It comes closest to its bound, whichever is first; if all are exact, it is the first."""
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
    """What was not computed keeps no bound."""
    with pytest.raises(ValueError, match=r"^there is no result to compare$"):
        compare([])


def test_what_is_off_already_takes_a_smaller_shift_to_be_noticed() -> None:
    """Of 3.5 units that are allowed two are used up: one more is not noticed, and two are."""
    eps = torch.finfo(torch.float32).eps
    bound = Bounded(*(torch.tensor([x], dtype=torch.float64) for x in (1.5, 3.5 * eps)))

    def moved(units: int) -> parity.Comparison:
        """Compare a number that is off by so many units in the last place."""
        return compare([("number", torch.tensor([1.5 + units * eps]), bound)])

    assert moved(2).ulps == (2, 2)
    assert moved(3).holds
    assert not moved(4).holds


def test_the_least_and_the_middle_shift_are_those_of_all_elements_together() -> None:
    """Whichever result they belong to, and however many elements each has."""
    eps = torch.finfo(torch.float32).eps

    def result(units: list[float]) -> parity.Triple:
        """Return ones, of which each may be off by so many units."""
        ones = torch.ones(len(units))
        return "ones", ones, Bounded(ones.double(), eps * torch.tensor(units).double())

    found = compare([result([0.5]), result([7.5, 8.5, 2.5, 3.5])])

    assert found.ulps == (1, 4)


def test_the_convolution_is_laid_out_by_channels_and_drawn_from_a_seed() -> None:
    """The seed is 0 unless another is given, as for the network."""
    cpu = torch.device("cpu")
    network = parity.network(torch.float32, cpu)
    assert network.output.bias.equal(parity.network(torch.float32, cpu, seed=0).output.bias)
    model = parity.convolution(torch.float32, cpu)

    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 10)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[0].weight.equal(parity.convolution(torch.float32, cpu, seed=0)[0].weight)


def test_what_is_computed_in_float32_inside_is_rounded_to_float16_but_once() -> None:
    """A softmax of exact scores is off by the one rounding with which it is stored."""
    rule = Arithmetic.of(torch.float16)

    found = softmax_of(rule, Bounded.exact(torch.tensor([[1.0, -2.0, 0.5]])))

    assert (found.error <= 1.05 * rule.unit * found.value).all()


@pytest.mark.parametrize(("can_hold", "steps"), [(False, 1), (True, 3)])
def test_the_first_step_is_always_compared(can_hold: bool, steps: int) -> None:
    """The others only while no number of theirs may be larger than any of the dtype."""

    class Holds(Arithmetic):
        """An arithmetic that can hold all or nothing."""

        def can_hold(self, numbers: Any) -> bool:
            """Return whether the numbers are in range."""
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
    """Not piece by piece around what the compiler cannot read, nor anew for each batch."""
    model, given = nn.Identity(), {}
    monkeypatch.setattr(torch, "compile", lambda model, **options: given.update(options) or model)

    assert parity.compiled(model) is model
    assert given == {"fullgraph": True, "dynamic": True}


def test_without_a_compiler_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the first line of what torch says; any other error is none, and is raised."""

    def compiles(message: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
        """Return a torch.compile whose result fails at its first call, or does not."""

        def call(x: Tensor) -> Tensor:
            """Compile, when it is called."""
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


@pytest.mark.parametrize(
    ("make", "size"),
    [(lambda: nn.Linear(3, 3), (2, 3)), (lambda: nn.Conv2d(3, 3, 2), (2, 3, 6, 5))],
)
def test_the_last_layer_alone_loses_its_bias(
    make: Callable[[], nn.Linear | nn.Conv2d], size: tuple[int, ...]
) -> None:
    """The others keep theirs, be they linear or convolutions."""
    model = nn.Sequential(*[make() for _ in range(4)])
    images = torch.randn(size)
    bias = model[-1].bias
    expected = model(images) - bias.reshape(-1, *[1] * (len(size) - 2))

    drops_a_bias(model)

    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ("fault", "rounded"),
    [
        (rounds_weights_to_bfloat16, lambda x, w: (x, w.bfloat16().float())),
        (multiplies_in_tf32, lambda x, w: (cut_to_tf32(x), cut_to_tf32(w))),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(6, 2), nn.Conv2d(3, 2, (2, 3))])
def test_a_fault_of_precision_rounds_what_is_multiplied_and_not_the_gradient(
    fault: Callable[[nn.Module], None],
    rounded: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    layer: nn.Linear | nn.Conv2d,
) -> None:
    """Layers of both kinds, and the weights that are stored stay as they are."""
    images = torch.randn((2, 6) if isinstance(layer, nn.Linear) else (2, 3, 4, 5))
    faulty, exact = copy.deepcopy(layer), copy.deepcopy(layer)
    fault(faulty)
    x, weight = rounded(images, layer.weight.detach())
    exact.weight.data = weight
    expected = exact(x)

    result = faulty(images)

    for output in (result, expected):
        output.sum().backward()
    assert result.equal(expected)
    assert not result.equal(layer(images))
    assert faulty.weight.equal(layer.weight)
    torch.testing.assert_close(faulty.weight.grad, exact.weight.grad)


@pytest.mark.parametrize("bias", [False, True])
def test_the_fault_of_the_sums_rounds_after_each_term(bias: bool) -> None:
    """In float16 a sum of ones stays at 2048, which torch, with wider sums, goes beyond."""
    layer = nn.Linear(3000, 2, bias=bias, dtype=torch.float16)
    layer.weight.data = torch.ones(2, 3000, dtype=torch.float16)
    if bias:
        layer.bias.data = torch.tensor([4000.0, 0.0], dtype=torch.float16)
    sums_in_the_dtype(layer)

    result = layer(torch.tensor([[1.0], [2.0]], dtype=torch.float16).expand(2, 3000))

    assert result.tolist() == [[4000.0 if bias else 2048.0, 2048.0], [4096.0, 4096.0]]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(4,), (2, 4), (2, 3, 4), (2, 1)])
def test_the_fault_of_the_sums_takes_what_a_linear_layer_takes(
    bias: bool, size: tuple[int, ...]
) -> None:
    """One example or a batch, with further dimensions or a single feature, and nothing is lost."""
    layer = nn.Linear(size[-1], 3, bias=bias, dtype=torch.float64)
    images = torch.randn(size, dtype=torch.float64)
    expected = layer(images)

    sums_in_the_dtype(layer)

    torch.testing.assert_close(layer(images), expected)


def test_tf32_keeps_the_dtype() -> None:
    """A half that is cut is a half."""
    assert cut_to_tf32(torch.ones(1, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize("ulps", [1, 512])
def test_the_fault_moves_the_largest_logit_away_from_zero(ulps: int) -> None:
    """By units in the last place of that logit, whatever the shape; the others stay."""
    model = nn.Identity()
    moves_one_logit(ulps)(model)

    moved = model(torch.tensor([[1.0, -3.0], [2.0, 0.0], [0.5, 0.25]]))

    unit = 2 * torch.finfo(torch.float32).eps
    assert moved.equal(torch.tensor([[1.0, -3.0 - ulps * unit], [2.0, 0.0], [0.5, 0.25]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_unit_in_the_last_place_leads_to_the_next_number_of_the_dtype(dtype: torch.dtype) -> None:
    """It has the dtype of the value that it is added to."""
    values = torch.tensor([1.0, -2.0, 3.0, 0.25, -1000.0], dtype=dtype)

    units = ulp(values)

    assert units.dtype == dtype
    infinite = torch.full_like(values, math.inf).copysign(values)
    assert (values + units.copysign(values)).equal(torch.nextafter(values, infinite))
