"""Same-results: on each device.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: (implied) The device changes the speed, not the results.
Verdict: holds-if
Truth: Within rounding: the order of sums differs, and TF32 has 11 bits for float32's 24. The
    error that rounding can make follows from the unit roundoff u of the dtype and the number n of
    terms, n u / (1 - n u) of the sum of magnitudes (Higham, Accuracy and Stability of Numerical
    Algorithms, sections 3.1 to 3.5), carried through the layers; float16 and bfloat16 are summed
    in float32, for which CUDA needs allow_fp16_reduced_precision_reduction and its twin for
    bfloat16 off. A convolution keeps that bound as a sum of products: Winograd's and Fourier's
    ways, which cuDNN may choose, have none element by element, and the comparison turns cuDNN
    off. Bit for bit only twice on one device, with the same seed and deterministic algorithms on;
    on CUDA cuBLAS then needs CUBLAS_WORKSPACE_CONFIG, and torch raises for operations that have
    no deterministic kernel there, such as nll_loss over images, the backward of adaptive average
    pooling to more than one place, of bilinear interpolation and of ctc_loss, bincount with
    weights, histc and median with indices (torch.use_deterministic_algorithms lists them); the
    library's training uses none. In float16 Adam needs a larger eps: 1e-8 is 0 there.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts import devices
from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.parity.bounds import Arithmetic
from dlconcepts.parity.comparison import TECHNIQUES, Subject, compare
from dlconcepts.parity.faults import (
    drops_a_bias,
    layers_with_weights,
    moves_one_logit,
    multiplies_in_tf32,
    rounds_weights_to_bfloat16,
    sums_in_the_dtype,
)
from dlconcepts.strategies import LAYOUTS, tensors
from dlconcepts.support.bitwise import state_of
from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from tests.devices.common import Settings, seeds, settings


def computes_as_it_should(model: nn.Module) -> None:
    """Leave the model as it is."""


@st.composite
def batches_for(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    layouts: Sequence[str] = LAYOUTS,
) -> tuple[Tensor, Tensor]:
    """Draw 2 to 5 images of a shape, no value beyond 10, and labels of 10 classes."""
    size = draw(st.integers(2, 5))
    images = draw(tensors((size, *shape), dtype, max_magnitude=10, layouts=layouts))
    labels = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size))
    return images, torch.tensor(labels)


def draw_dtype(data: st.DataObject) -> torch.dtype:
    """Draw a dtype in which the device of the run computes."""
    known = parity.dtypes_of(torch.get_default_device())
    # The one that shows most faults first: it is what Hypothesis tries first.
    return data.draw(st.sampled_from(known[::-1]), label="dtype")


def check_all(subject: Subject, batch: Any) -> None:
    """Compare what each technique gives with float64, from the same weights on, TF32 off."""
    before = copy.deepcopy(subject.model.state_dict())
    for name, technique in TECHNIQUES.items():
        subject.model.load_state_dict(before)
        with parity.precision(tf32=False):
            found = compare(technique(subject, batch))
        assert found.holds, f"{WITHIN}, which follows from the dtype and the sums: {name}, {found}"


COSTS = "each example goes through all techniques, at 109,386 parameters"


WITHIN = "the error is within the bound"


@law(
    right=computes_as_it_should,
    wrong={
        drops_a_bias: WITHIN,
        rounds_weights_to_bfloat16: WITHIN,
        multiplies_in_tf32: WITHIN,
        sums_in_the_dtype: WITHIN,
        moves_one_logit(512): WITHIN,
    },
    share=0.2,
    because=COSTS,
)
@given(seed=seeds, data=st.data())
def test_a_technique_gives_its_float64_result_within_rounding(
    plant: Callable[[nn.Module], None],
    seed: int,
    data: st.DataObject,
) -> None:
    """On each device, for each dtype: further off than rounding can bring it is a fault."""
    dtype = draw_dtype(data)
    model = parity.network(dtype, torch.get_default_device(), seed=seed)
    plant(model)
    batch = data.draw(batches_for((784,), dtype), label="batch")

    check_all(Subject(model, model, Arithmetic.of(dtype)), batch)


def compiles_a_copy(model: nn.Module) -> nn.Module:
    """Compile one model and train another."""
    run = parity.compiled(copy.deepcopy(model))
    # With gradients left from another step TorchInductor would compile anew.
    run.register_forward_pre_hook(lambda module, inputs: module.zero_grad())
    return run


def forgets_the_last_bias(model: nn.Module) -> nn.Module:
    """Drop, behind what was compiled, the bias of the last layer."""
    run = parity.compiled(model)
    bias = layers_with_weights(model)[-1].bias
    run.register_forward_hook(lambda module, images, logits: logits - bias)
    return run


def puts_a_compiled_logit_off(model: nn.Module) -> nn.Module:
    """Put, behind what was compiled, one logit off by 512 units in the last place."""
    run = parity.compiled(model)
    moves_one_logit(512)(run)
    return run


@pytest.fixture(scope="session")
def compiler() -> None:
    """Skip, with torch's reason, where TorchInductor finds no compiler for C++."""
    if reason := parity.why_not_compiled():
        pytest.skip(reason)


@pytest.mark.usefixtures("compiler")
@law(
    right=parity.compiled,
    wrong={
        compiles_a_copy: WITHIN,
        forgets_the_last_bias: WITHIN,
        puts_a_compiled_logit_off: WITHIN,
    },
    share=0.2,
    because=COSTS,
)
@given(seed=seeds, data=st.data())
def test_a_compiled_model_gives_the_float64_result_within_rounding(
    compile_model: Callable[[nn.Module], nn.Module],
    seed: int,
    data: st.DataObject,
) -> None:
    """What TorchInductor makes of a model is held to the same bounds, for each dtype."""
    dtype = draw_dtype(data)
    model = parity.network(dtype, torch.get_default_device(), seed=seed)
    run = compile_model(model)
    # For other strides TorchInductor would compile anew, and 8 times at most.
    batch = data.draw(batches_for((784,), dtype, layouts=["contiguous"]), label="batch")

    check_all(Subject(model, run, Arithmetic.of(dtype)), batch)


def channels_last(images: Tensor) -> Tensor:
    """Store the channels of a pixel side by side; the shape stays."""
    return images.contiguous(memory_format=torch.channels_last)


def permutes_instead(images: Tensor) -> Tensor:
    """Put the channels last in the shape, and force the old shape upon it."""
    return images.permute(0, 2, 3, 1).reshape(images.shape)


def swaps_the_channels(images: Tensor) -> Tensor:
    """Read blue, green, red."""
    return channels_last(images.flip(1))


@law(
    right=channels_last,
    wrong={permutes_instead: WITHIN, swaps_the_channels: WITHIN},
    share=0.2,
    because=COSTS,
)
@given(seed=seeds, data=st.data())
def test_the_layout_of_the_channels_does_not_change_the_result(
    lay_out: Callable[[Tensor], Tensor],
    seed: int,
    data: st.DataObject,
) -> None:
    """A convolution over channels_last gives the float64 result of the plain layout."""
    dtype = draw_dtype(data)
    model = parity.convolution(dtype, torch.get_default_device(), seed=seed)
    images, labels = data.draw(batches_for((3, 8, 8), dtype), label="batch")

    class LaysOut(nn.Module):
        """The model behind the layout."""

        def __init__(self) -> None:
            """Hold the model."""
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            """Lay out the images and run the model."""
            return self.model(lay_out(images))

    check_all(Subject(model, LaysOut(), Arithmetic.of(dtype)), (images, labels))


def claims_tf32() -> Arithmetic:
    """Hold a result with TF32 to what TF32 can do."""
    return Arithmetic.of(torch.float32, tf32=True)


def claims_float32() -> Arithmetic:
    """Leave TF32 on and claim the accuracy of float32."""
    return Arithmetic.of(torch.float32)


@law(right=claims_tf32, wrong={claims_float32: WITHIN})
@given(seed=seeds, data=st.data())
def test_tf32_is_held_to_its_own_bound(
    arithmetic: Callable[[], Arithmetic], seed: int, data: st.DataObject
) -> None:
    """With TF32, on CUDA or imitated, a forward pass keeps the bound of TF32, not of float32."""
    device = torch.get_default_device()
    model = parity.network(torch.float32, device, seed=seed)
    batch = data.draw(batches_for((784,), torch.float32), label="batch")
    if device.type != "cuda":
        multiplies_in_tf32(model)

    with parity.precision(tf32=True):
        found = compare(TECHNIQUES["forward"](Subject(model, model, arithmetic()), batch))

    assert found.holds, f"{WITHIN} of the arithmetic that is claimed: {found}"


def compares_on_one_device_only(name: str, subject: Subject, batch: Any) -> bool:
    """Run the technique twice on the same device and compare the two."""
    both = zip(TECHNIQUES[name](subject, batch), TECHNIQUES[name](subject, batch), strict=True)
    return all(torch.allclose(one[1], other[1]) for one, other in both)


def tolerates_five_hundredths(name: str, subject: Subject, batch: Any) -> bool:
    """Compare with float64 at atol=5e-2, as is often seen."""
    triples = TECHNIQUES[name](subject, batch)
    return all(torch.allclose(c.double().cpu(), e.value, atol=5e-2) for _, c, e in triples)


def compares_with_float64(name: str, subject: Subject, batch: Any) -> bool:
    """Compare with float64, at what rounding can do."""
    return compare(TECHNIQUES[name](subject, batch)).holds


FAULTS_OF_FLOAT32 = {
    "a bias dropped": drops_a_bias,
    "bfloat16 weights": rounds_weights_to_bfloat16,
    "TF32 factors": multiplies_in_tf32,
    "a logit off": moves_one_logit(4096),
}


@law(
    right=compares_with_float64,
    wrong={
        compares_on_one_device_only: "a planted fault is noticed",
        tolerates_five_hundredths: "a planted fault is noticed",
    },
)
@given(fault=st.sampled_from(list(FAULTS_OF_FLOAT32)), seed=seeds, pixel=st.integers(0, 783))
def test_a_comparison_notices_what_a_device_does_wrong(
    holds: Callable[[str, Subject, Any], bool], fault: str, seed: int, pixel: int
) -> None:
    """With one lit pixel each planted fault is noticed, and a sound device is not blamed."""
    model = parity.network(torch.float32, torch.get_default_device(), seed=seed)
    subject = Subject(model, model, Arithmetic.of(torch.float32))
    images = torch.zeros(8, 784)
    images[:, pixel] = torch.linspace(0.1, 1, 8)
    batch = images, torch.arange(8)

    with parity.precision(tf32=False):
        assert holds("forward", subject, batch), "a device that only rounds is not blamed"
        FAULTS_OF_FLOAT32[fault](model)
        noticed = not holds("forward", subject, batch)

    assert noticed, f"a planted fault is noticed: {fault}"


DIGITS = (
    torch.arange(12, dtype=torch.float32, device="cpu").view(6, 2) - 5,
    torch.arange(6, device="cpu") % 3,
)


def trains_with_a_seed(seed: int) -> nn.Module:
    """Train as the library does, deterministic algorithms on."""
    with devices.deterministic(), torch.random.fork_rng([]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        model = Network(2, [8], 3, dropout=0.5)
    model.to(torch.get_default_device())
    with devices.deterministic():
        fit(model, DIGITS, epochs=2, batch_size=2, seed=seed)
    return model


def draws_weights_unseeded(seed: int) -> nn.Module:
    """Seed the training, and not the weights, which go on from wherever the generator is."""
    model = Network(2, [8], 3, dropout=0.5)
    fit(model, DIGITS, epochs=2, batch_size=2, seed=seed)
    return model


def adds_in_order_of_arrival(seed: int) -> nn.Module:
    """Sum a gradient in another order each time, as atomic additions on a GPU do."""
    model = trains_with_a_seed(seed)
    terms = torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])
    total = torch.zeros((), device="cpu")
    for term in next(ARRIVAL)(terms):
        total += term
    with torch.no_grad():
        model.output.bias.add_(total.to(model.output.bias.device))
    return model


# The terms of a sum arrive from first to last, the next time from last to first.
ARRIVAL = itertools.cycle([list, lambda terms: list(terms)[::-1]])


@law(
    right=trains_with_a_seed,
    wrong={
        draws_weights_unseeded: "the same seed gives the same bits",
        adds_in_order_of_arrival: "the same seed gives the same bits",
    },
)
@given(seed=seeds)
def test_the_same_seed_gives_the_same_bits(train: Callable[[int], nn.Module], seed: int) -> None:
    """Trained twice, with dropout and shuffling, the parameters agree to the bit on each device."""
    assert state_of(train(seed)) == state_of(train(seed)), "the same seed gives the same bits"


@contextmanager
def set_to(algorithms: bool, warn_only: bool, benchmark: bool) -> Iterator[None]:
    """Change the settings for a block."""
    *before, benchmark_before = settings()
    torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
    torch.backends.cudnn.benchmark = benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark_before


@contextmanager
def leaves_it_on_after_an_error() -> Iterator[None]:
    """Forget the `finally`."""
    before = settings()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.backends.cudnn.benchmark = before[2]


@contextmanager
def switches_it_off_afterwards() -> Iterator[None]:
    """Take it that nobody had switched it on before."""
    with set_to(True, False, False):
        yield
    torch.use_deterministic_algorithms(False)


@contextmanager
def leaves_the_choice_to_cudnn() -> Iterator[None]:
    """Forget that cuDNN tries its algorithms, and takes what was fastest that time."""
    with set_to(True, False, torch.backends.cudnn.benchmark):
        yield


@law(
    right=devices.deterministic,
    wrong={
        leaves_it_on_after_an_error: "the settings come back",
        switches_it_off_afterwards: "the settings come back",
        leaves_the_choice_to_cudnn: "nothing is left to chance",
    },
)
@given(before=st.tuples(st.booleans(), st.booleans(), st.booleans()), raises=st.booleans())
def test_deterministic_gives_the_settings_back(
    deterministic: Callable[[], AbstractContextManager[None]], before: Settings, raises: bool
) -> None:
    """In the block nothing is left to chance; after it, and after an error in it, all is back."""
    with set_to(*before):
        assert settings() == before, "torch keeps the settings it is given"

        with suppress(KeyError), deterministic():
            inside = settings()
            if raises:
                raise KeyError
        after = settings()

    assert inside == (True, False, False), "nothing is left to chance, and no warning does instead"
    assert after == before, "the settings come back"
