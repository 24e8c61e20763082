"""Lesson 9: a network on another device, and how one knows that it computes the same there.

Moving is an order that a module obeys and a tensor answers with a copy. The results may differ by
what rounding can do, and by nothing else; how much that is follows from the dtype and the length of
the sums, and each law here rejects the faults that a looser comparison would let pass.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

import copy
import functools
import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts import checkpoints, devices, parity, parity_command
from dlconcepts.__main__ import main
from dlconcepts.bounds import Arithmetic, Bounded
from dlconcepts.compare import bits, state_of
from dlconcepts.devices import DEVICES, DeviceUnavailableError, find_device, move, to_device
from dlconcepts.faults import (
    drops_a_bias,
    layers_with_weights,
    moves_one_logit,
    multiplies_in_tf32,
    rounds_weights_to_bfloat16,
    sums_in_the_dtype,
    ulp,
)
from dlconcepts.networks import Network
from dlconcepts.parity import TECHNIQUES, Comparison, Subject, compare
from dlconcepts.reference import layers_of
from dlconcepts.strategies import LAYOUTS, tensors
from dlconcepts.training import fit

claim = pytest.mark.claim

ROOT = Path(__file__).parents[1]
META = torch.device("meta")  # a device that every machine has: it keeps shapes and no values

seeds = st.integers(0, 2**16)


def is_there(name: str) -> bool:
    """Return whether a device can be used."""
    try:
        find_device(name)
    except DeviceUnavailableError:
        return False
    return True


MISSING = [name for name in DEVICES if not is_there(name)]

# ------------------------------------------------- model-to-device: batches


class Pair(NamedTuple):
    """A batch with names."""

    images: Any
    labels: Any


def forgets_the_result(batch: Any, device: torch.device) -> Any:
    """Call `to`, and go on with what one had."""
    for tensor in tensors_in(batch):
        tensor.to(device)
    return batch


def moves_the_outermost_only(batch: Any, device: torch.device) -> Any:
    """Move a tensor, or the tensors of a list, but not those further in."""
    if isinstance(batch, list):
        return [x.to(device) if isinstance(x, Tensor) else x for x in batch]
    return batch.to(device) if isinstance(batch, Tensor) else batch


def makes_lists_of_all(batch: Any, device: torch.device) -> Any:
    """Make a list of every tuple."""
    if isinstance(batch, (list, tuple)):
        return [makes_lists_of_all(item, device) for item in batch]
    return to_device(batch, device)


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Return the tensors of a nested batch, or of a model with all that it holds, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, nn.Module):
        yield from tensors_in(vars(batch))
    elif isinstance(batch, dict):
        yield from tensors_in(list(batch.values()))
    elif isinstance(batch, (list, tuple)):
        for item in batch:
            yield from tensors_in(item)


def outline(batch: Any) -> Any:
    """Return the kinds of the containers of a batch, and all in it that is no tensor."""
    if isinstance(batch, Tensor):
        return batch.shape, batch.dtype
    if isinstance(batch, dict):
        return dict, {key: outline(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch), [outline(item) for item in batch]
    return batch


# MPS has no float64.
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
nested = st.recursive(
    tensors(dtype=dtypes, max_magnitude=9) | st.sampled_from(["cat", 3, None]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Pair, inner, inner)
        | st.dictionaries(st.sampled_from(["images", "labels"]), inner)
    ),
    max_leaves=4,
)


@claim(
    "devices.model-to-device",
    right=to_device,
    wrong={
        forgets_the_result: "a moved copy is what `to` returns",
        moves_the_outermost_only: "a moved copy is what `to` returns",
        makes_lists_of_all: "the batch keeps its form",
    },
)
@given(batch=nested)
def test_a_batch_arrives_whole_and_the_one_given_stays(
    to_device: Callable[[Any, torch.device], Any], batch: Any
) -> None:
    """Each tensor of a nested batch is on the device, in its place; the batch given stays."""
    before = [bits(tensor) for tensor in tensors_in(batch)]
    homes = [tensor.device for tensor in tensors_in(batch)]

    moved = to_device(batch, META)
    back = to_device(to_device(batch, torch.device("cpu")), torch.get_default_device())

    arrived = [tensor.device for tensor in tensors_in(moved)]
    assert arrived == [META] * len(before), "a moved copy is what `to` returns"
    assert outline(moved) == outline(batch), "the batch keeps its form"
    assert [tensor.device for tensor in tensors_in(batch)] == homes, "`to` moves no tensor itself"
    assert [bits(tensor) for tensor in tensors_in(back)] == before, "there and back, to the bit"


# ------------------------------------------------- model-to-device: models


class Statistics(nn.Module):
    """A layer with a buffer."""

    def __init__(self) -> None:
        """Make a linear layer and what normalises its input."""
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.arange(3.0))


def leaves_plain_attributes(model: nn.Module, device: torch.device) -> nn.Module:
    """Move what `to` finds."""
    return model.to(device)


def moves_parameters_only(model: nn.Module, device: torch.device) -> nn.Module:
    """Forget the buffers."""
    for layer in model.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(layer, name, nn.Parameter(parameter.detach().to(device)))
    return model


PLACES: dict[str, Callable[[], Any]] = {
    "nowhere": lambda: None,
    "a plain attribute": lambda: torch.ones(3),
    "a list": lambda: [0, torch.ones(3)],
    "a dict": lambda: {"mean": (torch.ones(3),)},
    "a list of layers": lambda: [nn.Linear(2, 2)],
}


def devices_in(model: nn.Module) -> set[torch.device]:
    """Return the devices of all that a model holds, registered or not."""
    return {tensor.device for tensor in tensors_in(model)}


@claim(
    "devices.model-to-device",
    right=move,
    wrong={
        leaves_plain_attributes: "nothing of a model is left behind",
        moves_parameters_only: "nothing of a model is left behind",
    },
)
@given(place=st.sampled_from(list(PLACES)), seed=seeds)
def test_a_model_arrives_with_all_that_belongs_to_it_or_not_at_all(
    move: Callable[[nn.Module, torch.device], nn.Module], place: str, seed: int
) -> None:
    """Parameters and buffers arrive; a tensor that `to` would miss is named, and nothing moves."""
    torch.manual_seed(seed)
    model = nn.Sequential(Statistics(), nn.ReLU())
    model[0].extra = PLACES[place]()
    before, homes = state_of(model), devices_in(model)

    try:
        moved = move(model, META)
        said = None
    except ValueError as error:
        said = str(error)

    if said is None:
        assert moved is model, "a module moves in place"
        assert devices_in(model) == {META}, "nothing of a model is left behind"
    else:
        assert place != "nowhere", "a model that holds nothing back is moved"
        assert "model.0.extra" in said, "the error names what would be left behind"
        assert (state_of(model), devices_in(model)) == (before, homes), "nothing has moved"


def goes_through_half_precision(model: nn.Module, device: torch.device) -> nn.Module:
    """Send less over the bus."""
    return model.to(device, torch.bfloat16).to(torch.float32)


@claim(
    "devices.model-to-device",
    right=move,
    wrong={goes_through_half_precision: "there and back, to the bit"},
)
@given(seed=seeds, frozen=st.booleans())
def test_a_model_comes_back_as_it_was(
    move: Callable[..., nn.Module], seed: int, frozen: bool
) -> None:
    """Parameters, buffers and gradients are the same, to the bit, and what is frozen stays so."""
    torch.manual_seed(seed)
    model = nn.Sequential(Statistics(), nn.ReLU())
    model[0].linear(torch.ones(2, 3)).sum().backward()
    model[0].linear.weight.requires_grad_(not frozen)
    before = state_of(model)

    move(move(model, torch.device("cpu")), torch.get_default_device())

    assert state_of(model) == before, "there and back, to the bit"
    assert devices_in(model) == {torch.zeros(1).device}, "the model is where it was"


def moves_the_model_alone(
    model: nn.Module, device: torch.device, optimizer: torch.optim.Optimizer
) -> nn.Module:
    """Leave the optimizer with what it was built on."""
    return move(model, device)


@claim(
    "devices.model-to-device",
    right=move,
    wrong={moves_the_model_alone: "an optimizer built before the move steps what was moved"},
)
@given(kind=st.sampled_from(["SGD, momentum and decay", "Adam", "AdamW"]), seed=seeds)
def test_an_optimizer_follows_its_model(
    move: Callable[..., nn.Module], kind: str, seed: int
) -> None:
    """It steps the parameters that were moved, and what it remembers is beside them."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = parity.OPTIMIZERS[kind](model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    remembered = {name: value.shape for s in optimizer.state.values() for name, value in s.items()}

    move(model, META, optimizer)

    stepped = optimizer.param_groups[0]["params"]
    assert [id(parameter) for parameter in stepped] == [id(p) for p in model.parameters()], (
        "an optimizer built before the move steps what was moved"
    )
    # The number of steps stays on the CPU, where torch reads it.
    found = {n: v for p in stepped for n, v in optimizer.state[p].items() if n != "step"}
    assert {value.device for value in found.values()} == {META}, "its state has moved too"
    assert {**remembered, **{n: v.shape for n, v in found.items()}} == remembered


def moves_what_it_is_given(model: nn.Module, images: Tensor) -> Tensor:
    """Copy each batch on the way, at the price of a copy, without a word."""
    device = next(model.parameters()).device
    return model(images.to(device))


def runs_the_model(model: nn.Module, images: Tensor) -> Tensor:
    """Call a model."""
    return model(images)


@claim(
    "devices.model-to-device",
    right=runs_the_model,
    wrong={moves_what_it_is_given: "an input that was not moved is an error"},
)
@given(batch=st.integers(1, 3), model_is_away=st.booleans())
def test_an_input_that_was_not_moved_is_an_error_that_names_both_devices(
    run: Callable[[nn.Module, Tensor], Tensor], batch: int, model_is_away: bool
) -> None:
    """Model here and input there, or the other way round: torch says so, with both names."""
    model, images = Network(4, [3], 2), torch.ones(batch, 4)
    home = images.device.type
    if model_is_away:
        model.to(META)
    else:
        images = images.to(META)

    try:
        run(model, images)
        said = ""
    except RuntimeError as error:
        said = str(error)

    assert home in said, "an input that was not moved is an error that names both devices"
    assert "meta" in said, "an input that was not moved is an error that names both devices"


def takes_any_name(name: str) -> torch.device:
    """Believe that a device is there because it has a name."""
    return torch.device(name)


@claim(
    "devices.model-to-device",
    right=find_device,
    wrong={takes_any_name: "a device that is not there is an error at once"},
)
@given(name=st.sampled_from(MISSING))
def test_a_device_that_is_not_there_is_an_error_before_any_work(
    find_device: Callable[[str], torch.device], name: str
) -> None:
    """The error names the device, says why it cannot be used, and what to do."""
    try:
        find_device(name)
        said = ""
    except DeviceUnavailableError as error:
        said = str(error)

    told = f"device {name!r} is not available: "
    assert told in said, "a device that is not there is an error at once"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Found no NVIDIA driver on your system.", "there is no NVIDIA driver; install"),
        ("No CUDA GPUs are available", "CUDA_VISIBLE_DEVICES does not hide it"),
        ("CUDA driver error: 35\nmore", "PyTorch says 'CUDA driver error: 35'"),
    ],
)
def test_what_torch_says_of_a_missing_device_becomes_a_reason_and_a_remedy(
    monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    """Each way in which CUDA can be absent has a remedy of its own."""

    def ones(*size: int, device: str) -> Tensor:
        """Fail as torch does on a machine without the device."""
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.version, "cuda", "13.0")

    with pytest.raises(DeviceUnavailableError, match="device 'cuda' is not available") as found:
        find_device("cuda")

    assert told in str(found.value)


def test_an_optimizer_of_another_model_stays_and_so_does_the_model() -> None:
    """What does not belong together is not moved together."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1)

    with pytest.raises(ValueError, match="not the model's"):
        move(model, META, optimizer)

    assert model.weight.device.type == "cpu"


# ------------------------------------------------- checkpoint-crosses-devices

# The device that torch.save is to write beside each tensor, if not the one where the tensor is.
tagged_as: str | None = None
torch.serialization.register_package(0, lambda storage: tagged_as, lambda storage, tag: None)


@contextmanager
def saving_as_if_on(tag: str) -> Iterator[None]:
    """Let torch.save write what it writes on another machine, whose tensors are on that device.

    A file holds the numbers, and beside each tensor the name of its device: nothing else differs.
    """
    global tagged_as
    tagged_as = tag
    try:
        yield
    finally:
        tagged_as = None


def loads_to_where_it_was(path: Path) -> Any:
    """Call torch.load without map_location."""
    return torch.load(path, weights_only=True)


def loads_the_checkpoint(path: Path) -> Any:
    """Call the library's `load`, and return the state."""
    return {"state_dict": checkpoints.load(path).model.state_dict()}


@claim(
    "devices.checkpoint-crosses-devices",
    right=loads_the_checkpoint,
    wrong={loads_to_where_it_was: "a checkpoint loads where its device is missing"},
)
@given(tag=st.sampled_from([*MISSING, "cuda:7"]), seed=seeds)
def test_a_checkpoint_loads_where_the_device_it_was_saved_on_is_missing(
    load: Callable[[Path], Any], tag: str, seed: int
) -> None:
    """What was saved on a device that this machine lacks comes to the CPU, to the bit."""
    torch.manual_seed(seed)
    model = Network(4, [3], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        with saving_as_if_on(tag):
            checkpoints.save(path, model, classes=["cat", "dog"], normalization={"mean": 0.5})

        try:
            state = load(path)["state_dict"]
        except (RuntimeError, AssertionError) as error:
            raise AssertionError("a checkpoint loads where its device is missing") from error

    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    assert {n: bits(t) for n, t in state.items()} == {
        n: bits(t) for n, t in model.state_dict().items()
    }, "the numbers are the same, to the bit"


def forgets_to_give_the_model(path: Path, model: Network) -> None:
    """Load, and leave the model that was to be loaded into as it was."""
    checkpoints.load(path)


@claim(
    "devices.checkpoint-crosses-devices",
    right=checkpoints.load,
    wrong={forgets_to_give_the_model: "the model has the numbers of the file"},
)
@given(seed=seeds)
def test_a_checkpoint_goes_into_a_model_on_any_device(
    load: Callable[[Path, Network], Any], seed: int
) -> None:
    """Saved on one device and loaded into a model on another, the model stays where it is."""
    torch.manual_seed(seed)
    saved, model = Network(4, [3], 2), Network(4, [3], 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint.pt")
        saving = copy.deepcopy(saved).to("cpu")
        checkpoints.save(path, saving, classes=["cat", "dog"], normalization={"mean": 0.5})

        load(path, model)

    assert devices_in(model) == {torch.zeros(1).device}, "the model stays on its device"
    assert state_of(model.eval()) == state_of(saved.eval()), "the model has the numbers of the file"


# ------------------------------------------------- same-results: on each device


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


@claim(
    "devices.same-results",
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


@pytest.mark.parametrize("dtype", parity.DTYPES)
def test_a_training_that_diverges_is_compared_as_far_as_its_numbers_are_in_range(
    dtype: torch.dtype,
) -> None:
    """Bright images let SGD overshoot: no bound is lost on the way, and float16 ends in time."""
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


# ------------------------------------------------- same-results: compiled


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
@claim(
    "devices.same-results",
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


# ------------------------------------------------- same-results: channels_last


def channels_last(images: Tensor) -> Tensor:
    """Store the channels of a pixel side by side; the shape stays."""
    return images.contiguous(memory_format=torch.channels_last)


def permutes_instead(images: Tensor) -> Tensor:
    """Put the channels last in the shape, and force the old shape upon it."""
    return images.permute(0, 2, 3, 1).reshape(images.shape)


def swaps_the_channels(images: Tensor) -> Tensor:
    """Read blue, green, red."""
    return channels_last(images.flip(1))


@claim(
    "devices.same-results",
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


# ------------------------------------------------- same-results: TF32


def claims_tf32() -> Arithmetic:
    """Hold a result with TF32 to what TF32 can do."""
    return Arithmetic.of(torch.float32, tf32=True)


def claims_float32() -> Arithmetic:
    """Leave TF32 on and claim the accuracy of float32."""
    return Arithmetic.of(torch.float32)


@claim("devices.same-results", right=claims_tf32, wrong={claims_float32: WITHIN})
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


# ------------------------------------------------- same-results: the comparison


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


@claim(
    "devices.same-results",
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


# ------------------------------------------------- same-results: twice

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


@claim(
    "devices.same-results",
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


Settings = tuple[bool, bool, bool]


def settings() -> Settings:
    """Return what decides whether torch computes the same bits twice, as it stands."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


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


@claim(
    "devices.same-results",
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


def test_determinism_that_comes_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once CUDA is at work, cuBLAS no longer looks at the setting that it needs."""
    before = settings()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.delenv(devices.WORKSPACE)

    with pytest.raises(RuntimeError, match=devices.WORKSPACE), devices.deterministic():
        pass

    assert settings() == before


# ------------------------------------------------- cuda-is-faster


class Queue:
    """A device that works while the host goes on: a launch takes the host a second, and it is back.

    It stands in the place of `torch.cuda`. Work begins when it was launched and the work before it
    is done.
    """

    def __init__(self) -> None:
        """Begin with an empty queue, at time 0."""
        self.now = self.idle = 0.0

    def clock(self) -> float:
        """Return the time on the wall, as the host sees it."""
        return self.now

    def launch(self, seconds: float) -> None:
        """Put work of so many seconds into the queue."""
        self.now += 1
        self.idle = max(self.idle, self.now) + seconds

    def synchronize(self) -> None:
        """Wait until the queue is empty."""
        self.now = max(self.now, self.idle)

    def Event(self, *, enable_timing: bool) -> "Event":  # noqa: N802 - torch's name
        """Return an event of this queue."""
        assert enable_timing, "an event without timing has no time"
        return Event(self)


class Event:
    """A mark in a queue that takes the time when the work before it is done."""

    def __init__(self, queue: Queue) -> None:
        """Belong to a queue."""
        self.queue, self.time = queue, math.nan

    def record(self) -> None:
        """Put the mark into the queue."""
        self.time = max(self.queue.now, self.queue.idle)

    def synchronize(self) -> None:
        """Wait for the mark."""
        self.queue.now = max(self.queue.now, self.time)

    def elapsed_time(self, end: "Event") -> float:
        """Return the milliseconds from this mark to another."""
        assert end.time <= self.queue.now, "an event has no time before it was waited for"
        return 1000 * (end.time - self.time)


def times_waited_for_work(work: Callable[[], None], queue: Queue) -> float:
    """Call the library's `median_seconds`, for one round: a median would hide the first."""
    return devices.median_seconds(work, "cuda", rounds=1, module=queue, clock=queue.clock)


def times_without_synchronizing(work: Callable[[], None], queue: Queue) -> float:
    """Take the time until the calls have returned."""
    work()
    started = queue.clock()
    work()
    return queue.clock() - started


def times_what_was_queued_before(work: Callable[[], None], queue: Queue) -> float:
    """Wait at the end only, and so for what was in the queue before."""
    started = queue.clock()
    work()
    queue.synchronize()
    return queue.clock() - started


def times_the_first_call(work: Callable[[], None], queue: Queue) -> float:
    """Take the time of the call that compiles and allocates."""
    queue.synchronize()
    return times_what_was_queued_before(work, queue)


def begins_while_the_device_is_busy(work: Callable[[], None], queue: Queue) -> float:
    """Take the time between two events, launched while the device does what was before them."""
    for _ in range(3):  # the last of these is the round
        start, end = (queue.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


WAITED = "the time is that of the work, all of it and no other"


@claim(
    "devices.cuda-is-faster",
    right=times_waited_for_work,
    wrong={
        times_without_synchronizing: WAITED,
        times_what_was_queued_before: WAITED,
        times_the_first_call: WAITED,
        begins_while_the_device_is_busy: WAITED,
    },
)
@given(
    kernels=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    first=st.integers(0, 9),
    earlier=st.integers(0, 9),
)
def test_the_time_of_a_call_is_that_of_its_work(
    seconds: Callable[[Callable[[], None], Queue], float],
    kernels: list[int],
    first: int,
    earlier: int,
) -> None:
    """From an empty queue, it is the time until all that the call has launched is done."""
    queue, calls = Queue(), []
    queue.launch(earlier)
    launched = [0, *kernels]
    # The work that was launched after i + 1 seconds, and all that waits for it.
    done = max(i + 1 + sum(launched[i:]) for i in range(len(launched)))

    def work() -> None:
        """Launch some kernels, and the first time some more."""
        queue.launch(0 if calls else first)
        calls.append(1)
        for kernel in kernels:
            queue.launch(kernel)

    assert math.isclose(seconds(work, queue), done), WAITED


def test_a_device_without_events_is_timed_by_the_clock() -> None:
    """The queue is empty before and after each round; no round is an error.

    A launch takes a second, and three are worked.
    """
    queue = Queue()

    def seconds(device: str, rounds: int) -> float:
        """Return the time of three seconds of work."""
        module = SimpleNamespace(synchronize=queue.synchronize)
        work = functools.partial(queue.launch, 3)
        return devices.median_seconds(work, device, rounds=rounds, module=module, clock=queue.clock)

    assert (seconds("cpu", 1), seconds("mps", 2)) == (4, 4)
    with pytest.raises(ValueError, match="at least 1 round, but rounds is 0"):
        seconds("cpu", 0)


@pytest.mark.parametrize(
    ("device", "build", "says"),
    [
        ("cuda", {"cuda": None, "hip": None}, "no support"),
        ("cuda", {"cuda": "12.4", "hip": None}, "nothing answers"),
        ("cuda", {"cuda": None, "hip": "6.2"}, "nothing answers"),
        ("mps", {"mps": False}, "no support"),
        ("mps", {"mps": True}, "nothing answers"),
        ("xpu", {"xpu": None}, "no support"),
        ("xpu", {"xpu": "20250101"}, "nothing answers"),
        ("xpu", {}, "no support"),
    ],
)
def test_a_build_of_pytorch_without_a_device_is_told_from_a_machine_without_one(
    monkeypatch: pytest.MonkeyPatch, device: str, build: dict[str, Any], says: str
) -> None:
    """The one needs another build, the other a device: only there is a computation tried."""

    def nothing_answers(*sizes: int, device: str) -> Tensor:
        """Stand for a machine without a device."""
        raise RuntimeError(f"nothing answers on {device}")

    monkeypatch.setattr(torch, "version", SimpleNamespace(**build))
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: build["mps"])
    monkeypatch.setattr(torch, "ones", nothing_answers)

    with pytest.raises(DeviceUnavailableError, match=f"'{device}' is not available: .*{says}"):
        find_device(device)


class FiveSeconds:
    """An event of a queue in which all work takes five seconds."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Come after what is in the queue."""

    def synchronize(self) -> None:
        """Wait."""

    def elapsed_time(self, end: Any) -> float:
        """Return the milliseconds to another event."""
        return 5000.0


def test_events_tell_the_time_of_an_accelerator_and_the_clock_that_of_the_cpu() -> None:
    """Where there are events, the clock is not looked at, but for the CPU."""
    module = SimpleNamespace(synchronize=lambda: None, Event=FiveSeconds)
    seconds = functools.partial(devices.median_seconds, lambda: None, module=module)

    assert seconds("cuda", clock=lambda: pytest.fail("asked the clock")) == 5
    assert seconds("cpu", clock=itertools.count().__next__) == 1
    assert seconds(clock=itertools.count().__next__) == 1


def test_the_module_of_the_device_is_asked_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default two calls warm up and nine are timed, between waits for the device named."""
    calls: list[str] = []
    module = SimpleNamespace(synchronize=lambda: calls.append("waits"))
    monkeypatch.setattr(torch, "get_device_module", {"mps": module}.__getitem__)

    devices.median_seconds(lambda: calls.append("works"), "mps")

    assert calls == ["works"] * 2 + ["waits", "works", "waits"] * 9


# ------------------------------------------------- the table, the benchmark, the bounds


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave but three techniques, two dtypes and two probes, so that a table takes a second."""
    names = ("forward", "1 step of Adam", "transforms")
    monkeypatch.setattr(parity_command, "TECHNIQUES", {name: TECHNIQUES[name] for name in names})
    monkeypatch.setattr(parity, "DTYPES", (torch.float32, torch.float16))
    monkeypatch.setattr(parity_command, "PROBES", ("two pixels", "blank"))


@pytest.mark.usefixtures("few")
def test_the_table_of_parity_has_error_bound_and_blindness(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each technique has a row in each arithmetic, and the same figures are in the file."""
    file = tmp_path / "parity.json"

    assert main(["parity", "--eager", "--json", str(file)]) == 0

    printed = capsys.readouterr().out
    record = json.loads(file.read_text(encoding="utf-8"))
    arithmetics = ["float32", "float32 with TF32", "float16"]
    assert [row["arithmetic"] for row in record["rows"][::3]] == arithmetics
    assert all(title in printed for title in (*arithmetics, "channels_last", "not noticed"))
    assert {row["technique"]: row["missed"] for row in record["rows"][:3]}["forward"] == []
    found = [c for row in record["rows"] for c in row["backends"].values()]
    assert all(0 <= comparison["ratio"] <= 1 for comparison in found)


@pytest.mark.usefixtures("few")
def test_a_bound_that_is_exceeded_ends_the_table_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backend with a fault is told by the exit status."""
    sound = parity.network

    def faulty(dtype: torch.dtype, device: torch.device) -> Network:
        """Return the network without its last bias."""
        model = sound(dtype, device)
        drops_a_bias(model)
        return model

    monkeypatch.setattr(parity, "network", faulty)

    assert main(["parity", "--eager"]) == 1
    assert "forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--json", "nowhere/parity.json"], "there is no folder nowhere"),
    ],
)
def test_the_table_says_what_it_cannot_do(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown device or a missing folder is told before anything is measured."""
    assert main(["parity", *arguments]) == 2

    assert said in capsys.readouterr().err


def run_benchmark(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark as a person would."""
    command = [sys.executable, ROOT / "benchmarks" / "gpu.py", *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_benchmark_runs_on_the_cpu_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    """Every route has its row: figures, or the reason why there are none."""
    small = ["--images", "128", "--batch", "64", "--rounds", "1", "--deep-batch", "2"]

    result = run_benchmark("--device", "cpu", *small, "--side", "32", "--out", str(tmp_path))

    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == 6
    skipped = [row["skipped"] for row in rows if "skipped" in row]
    assert "a CUDA graph needs CUDA" in skipped
    assert all(row["images/s"] > 0 for row in rows if "skipped" not in row)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_the_benchmark_without_cuda_fails_at_once_with_the_reason() -> None:
    """It names the device, the reason, and what one can do."""
    result = run_benchmark()

    assert result.returncode == 2
    assert "device 'cuda' is not available: " in result.stderr
    assert "--device cpu" in result.stderr


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.GELU()), "Tanh, GELU"),
        (nn.Linear(2, 2), "Linear"),
        (Network(2, [2], 2, activation="gelu"), "a Network but of ReLU and no dropout"),
        (Network(2, [2], 2, dropout=0.5), "a Network but of ReLU and no dropout"),
        (nn.ModuleList([nn.Linear(2, 2)]), "ModuleList"),
    ],
)
def test_a_layer_without_a_bound_is_an_error(model: nn.Module, named: str) -> None:
    """What the reference has no bound for is named, and not guessed."""
    with pytest.raises(TypeError, match=f"^no error bound is known for {named}$"):
        layers_of(model)


def test_a_result_of_another_shape_is_no_result() -> None:
    """A comparison of other elements than were computed is refused."""
    bound = Bounded.exact(torch.ones(2))

    with pytest.raises(ValueError, match="logits has 3 elements, not 2"):
        compare([("logits", torch.ones(3), bound)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_no_number_exceeds_every_bound(value: float) -> None:
    """NaN is below no bound, although it is above none."""
    computed, bound = torch.tensor([1.0, value]), Bounded(torch.ones(2), torch.full((2,), 9.0))

    assert compare([("logits", computed, bound)]).ratio == math.inf


def test_one_element_off_by_the_reported_ulps_is_noticed_and_by_one_less_is_not() -> None:
    """The smallest shift that a comparison reports is planted, and is the smallest."""
    target = torch.tensor([1.0, -3.0, 0.25])
    bound = Bounded(target.double(), torch.tensor([1e-6, 1e-6, 1e-6], dtype=torch.float64))
    least = int(compare([("logits", target, bound)]).ulps[0])

    def moved(ulps: int) -> Comparison:
        """Compare with the element of the largest ulp moved away from zero."""
        shift = torch.tensor([0.0, -ulps * float(ulp(target[1])), 0.0])
        return compare([("logits", target + shift, bound)])

    assert not moved(least).holds
    assert moved(least - 1).holds
