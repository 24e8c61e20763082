"""`to` moves a module in place, but returns a moved copy of a tensor.

>>> model, x = nn.Linear(2, 1), torch.ones(3, 2)
>>> _ = model.to("meta"), x.to("meta")
>>> model.weight.device, x.device
(device(type='meta'), device(type='cpu'))
>>> x = x.to("meta")
>>> x.device
device(type='meta')

Notes: Switch between CPU and CUDA with the to() method of a model.
Verdict: holds-if
Truth: If the result is kept: x.to(device) alone does nothing to a tensor. Parameters and buffers of
    a module move; tensors and layers in plain attributes, lists and dicts silently stay behind (the
    library's `move` names them and then moves nothing). Build an optimizer after the move, or move
    it along: its state stays behind, and on some devices it steps the old parameters.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
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
    images: Any
    labels: Any


def forgets_the_result(batch: Any, device: torch.device) -> Any:
    """Call `to` and keep using the old tensors."""
    for tensor in tensors_in(batch):
        tensor.to(device)
    return batch


def moves_the_outermost_only(batch: Any, device: torch.device) -> Any:
    """Move a tensor, or the tensors of a list, but none that is nested deeper."""
    if isinstance(batch, list):
        return [x.to(device) if isinstance(x, Tensor) else x for x in batch]
    return batch.to(device) if isinstance(batch, Tensor) else batch


def turns_tuples_into_lists(batch: Any, device: torch.device) -> Any:
    """Rebuild every tuple as a list."""
    if isinstance(batch, (list, tuple)):
        return [turns_tuples_into_lists(item, device) for item in batch]
    return to_device(batch, device)


def rebuilds_plain_dicts(batch: Any, device: torch.device) -> Any:
    """Rebuild every mapping as a plain dict, whatever it was."""
    if isinstance(batch, dict):
        return {key: rebuilds_plain_dicts(value, device) for key, value in batch.items()}
    return to_device(batch, device)


def fills_an_empty_mapping(batch: Any, device: torch.device) -> Any:
    """Fill a new mapping of the same type, which knows no default value."""
    if isinstance(batch, dict):
        moved = type(batch)()
        moved.update({key: fills_an_empty_mapping(batch[key], device) for key in batch})
        return moved
    return to_device(batch, device)


def outline(batch: Any) -> Any:
    """Return the containers and other values of a batch, and shape and dtype of each tensor."""
    if isinstance(batch, Tensor):
        return batch.shape, batch.dtype
    if isinstance(batch, dict):
        default = getattr(batch, "default_factory", None)
        return type(batch), default, {key: outline(value) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch), [outline(item) for item in batch]
    return batch


# MPS has no float64.
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
batches = st.recursive(
    tensors(dtype=dtypes, max_magnitude=9) | st.sampled_from(["cat", 3, None]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.builds(Pair, inner, inner)
        | st.builds(
            lambda make, values: make(values),
            st.sampled_from([dict, OrderedDict, partial(defaultdict, list)]),
            st.dictionaries(st.sampled_from(["images", "labels"]), inner),
        )
    ),
    max_leaves=4,
)


@law(
    right=to_device,
    wrong={
        forgets_the_result: "every tensor of the result is on the device",
        moves_the_outermost_only: "every tensor of the result is on the device",
        turns_tuples_into_lists: "the batch keeps its structure",
        rebuilds_plain_dicts: "the batch keeps its structure",
        fills_an_empty_mapping: "the batch keeps its structure",
    },
)
@given(batch=batches)
def test_a_batch_arrives_whole_and_the_given_one_stays(
    to_device: Callable[[Any, torch.device], Any], batch: Any
) -> None:
    """Each tensor of a nested batch arrives in its place; the given batch does not move."""
    before = [bits(tensor) for tensor in tensors_in(batch)]
    homes = [tensor.device for tensor in tensors_in(batch)]

    moved = to_device(batch, META)
    back = to_device(to_device(batch, torch.device("cpu")), torch.get_default_device())

    arrived = [tensor.device for tensor in tensors_in(moved)]
    assert arrived == [META] * len(before), "every tensor of the result is on the device"
    assert outline(moved) == outline(batch), "the batch keeps its structure"
    assert [tensor.device for tensor in tensors_in(batch)] == homes, "the given batch stays"
    assert [bits(tensor) for tensor in tensors_in(back)] == before, "a round trip keeps every bit"


class Statistics(nn.Module):
    """A layer with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.arange(3.0))


def leaves_plain_attributes(model: nn.Module, device: torch.device) -> nn.Module:
    """Move only what `to` finds."""
    return model.to(device)


def moves_parameters_only(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the parameters but not the buffers."""
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
        leaves_plain_attributes: "all tensors of the model have moved",
        moves_parameters_only: "all tensors of the model have moved",
    },
)
@given(place=st.sampled_from(list(PLACES)), seed=seeds)
def test_a_model_moves_with_all_its_tensors_or_not_at_all(
    move: Callable[[nn.Module, torch.device], nn.Module], place: str, seed: int
) -> None:
    """Parameters and buffers move. If `to` would miss a tensor, an error names it first."""
    torch.manual_seed(seed)
    model = nn.Sequential(Statistics(), nn.ReLU())
    model[0].extra = PLACES[place]()
    before, homes = state_of(model), devices_in(model)

    error = ""
    try:
        moved = move(model, META)
    except ValueError as raised:
        error = str(raised)

    if not error:
        assert moved is model, "a module moves in place"
        assert devices_in(model) == {META}, "all tensors of the model have moved"
    else:
        assert place != "nowhere", "a model moves if all its tensors are registered"
        assert "model.0.extra" in error, "the error names the tensor that `to` would miss"
        assert (state_of(model), devices_in(model)) == (before, homes), "nothing has moved"


def goes_through_half_precision(model: nn.Module, device: torch.device) -> nn.Module:
    """Send bfloat16 over the bus to save time."""
    return model.to(device, torch.bfloat16).to(torch.float32)


@law(right=move, wrong={goes_through_half_precision: "a round trip keeps every bit"})
@given(seed=seeds, frozen=st.booleans())
def test_a_model_comes_back_as_it_was(
    move: Callable[..., nn.Module], seed: int, frozen: bool
) -> None:
    """Parameters, buffers and gradients keep every bit, and frozen parameters stay frozen."""
    torch.manual_seed(seed)
    model = nn.Sequential(Statistics(), nn.ReLU())
    model[0].linear(torch.ones(2, 3)).sum().backward()
    model[0].linear.weight.requires_grad_(not frozen)
    before = state_of(model)

    move(move(model, torch.device("cpu")), torch.get_default_device())

    assert state_of(model) == before, "a round trip keeps every bit"
    assert devices_in(model) == {torch.zeros(1).device}, "the model is back where it was"


def moves_the_model_alone(
    model: nn.Module, device: torch.device, optimizer: torch.optim.Optimizer
) -> nn.Module:
    """Move the model and leave the optimizer with the old parameters."""
    return move(model, device)


@law(right=move, wrong={moves_the_model_alone: "the optimizer steps the moved parameters"})
@given(kind=st.sampled_from(["SGD, momentum and decay", "Adam", "AdamW"]), seed=seeds)
def test_an_optimizer_follows_its_model(
    move: Callable[..., nn.Module], kind: str, seed: int
) -> None:
    """The optimizer steps the moved parameters, and its state is on their device."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = parity.OPTIMIZERS[kind](model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before = shapes_of_state(optimizer)

    move(model, META, optimizer)

    stepped = optimizer.param_groups[0]["params"]
    same = [id(parameter) for parameter in stepped] == [id(p) for p in model.parameters()]
    assert same, "the optimizer steps the moved parameters"
    # torch reads the number of steps on the CPU, and so keeps it there.
    moved = [v for p in stepped for name, v in optimizer.state[p].items() if name != "step"]
    assert {value.device for value in moved} == {META}, "the optimizer's state has moved"
    assert shapes_of_state(optimizer) == before, "the optimizer's state is complete"


def shapes_of_state(optimizer: torch.optim.Optimizer) -> list[dict[str, torch.Size]]:
    parameters = optimizer.param_groups[0]["params"]
    return [{name: v.shape for name, v in optimizer.state[p].items()} for p in parameters]


def takes_any_optimizer(
    model: nn.Module, device: torch.device, optimizer: torch.optim.Optimizer
) -> nn.Module:
    """Leave an optimizer of another model as it is."""
    own = {id(parameter) for parameter in model.parameters()}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return move(model, device, optimizer if held <= own else None)


@law(right=move, wrong={takes_any_optimizer: "DID NOT RAISE"})
@given(shared=st.booleans(), seed=seeds)
def test_an_optimizer_of_another_model_is_refused(
    move: Callable[..., nn.Module], shared: bool, seed: int
) -> None:
    """A parameter that the model does not have is an error, and nothing moves."""
    torch.manual_seed(seed)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    both = [*other.parameters(), *(model.parameters() if shared else [])]
    optimizer, homes = torch.optim.SGD(both, lr=0.1), devices_in(model)

    with pytest.raises(ValueError, match="another model's parameters"):
        move(model, META, optimizer)

    assert devices_in(model) == homes, "nothing has moved"


def runs_the_model(model: nn.Module, images: Tensor) -> Tensor:
    """Call the model."""
    return model(images)


def moves_what_it_is_given(model: nn.Module, images: Tensor) -> Tensor:
    """Silently copy each batch to the model's device, at the cost of a copy a call."""
    return model(images.to(next(model.parameters()).device))


@law(right=runs_the_model, wrong={moves_what_it_is_given: "an input on another device is an error"})
@given(batch=st.integers(1, 3), model_is_away=st.booleans())
def test_an_input_on_another_device_is_an_error_that_names_both(
    run: Callable[[nn.Module, Tensor], Tensor], batch: int, model_is_away: bool
) -> None:
    """If only the model or only the input has moved, torch raises and names both devices."""
    model, images = Network(4, [3], 2), torch.ones(batch, 4)
    home = images.device.type
    if model_is_away:
        model.to(META)
    else:
        images = images.to(META)

    error = ""
    try:
        run(model, images)
    except RuntimeError as raised:
        error = str(raised)

    both = home in error and "meta" in error
    assert both, f"an input on another device is an error that names both devices: {error!r}"


def takes_any_name(name: str) -> torch.device:
    """Assume that a device exists because it has a name."""
    return torch.device(name)


def numbers_the_device(name: str) -> torch.device:
    """Return the first device of its kind, which is not equal to the device of that name."""
    return torch.device(find_device(name).type, 0)


@law(
    right=find_device,
    wrong={takes_any_name: "DID NOT RAISE", numbers_the_device: "the device of that name"},
)
@given(name=st.sampled_from([*MISSING, "cpu", "meta", "cuda:0", "gpu"]))
def test_a_missing_device_is_an_error_before_any_work(
    find_device: Callable[[str], torch.device], name: str
) -> None:
    """The error names the device, says why it cannot be used, and what to do."""
    if name == "cpu":
        assert find_device(name) == torch.device(name), "it returns the device of that name"
    elif name in MISSING:
        # What "; " separates is the reason, and what to do.
        message = f"^device {name!r} is not available: .*; "
        with pytest.raises(DeviceUnavailableError, match=message) as error:
            find_device(name)
        assert name in str(error.value), "the error names the device"
    else:
        with pytest.raises(ValueError, match="choose one of cpu, cuda"):
            find_device(name)
