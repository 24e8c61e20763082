"""Model-to-device: batches.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Switch between CPU and CUDA with the to() method of a model.
Verdict: holds-if
Truth: A module moves in place, a tensor returns a moved copy: x.to(device) without assignment
    does nothing. Parameters and buffers move; tensors and layers in plain attributes, lists and
    dicts stay behind without a word (the library's `move` names them and moves nothing). An
    optimizer is best built after moving: what it remembers stays behind, and on some devices so
    do the parameters it steps, unless it is moved along.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.devices import move, to_device
from dlconcepts.networks import Network
from dlconcepts.parity import comparison as parity
from dlconcepts.strategies import tensors
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.support.devices import DeviceUnavailableError, find_device
from dlconcepts.testing.laws import law
from tests.devices.common import META, MISSING, devices_in, seeds, tensors_in


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


@law(
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


@law(
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


@law(
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


@law(
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


@law(
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


@law(
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
