"""load_state_dict raises if a shape differs, but first copies what fits.

>>> source, target = nn.Linear(3, 1), nn.Linear(2, 1)
>>> target.load_state_dict(source.state_dict())  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
RuntimeError: Error(s) in loading state_dict for Linear:...size mismatch for weight...
>>> target.bias.equal(source.bias)
True

Notes: Loading a state_dict into a model of another architecture fails.
Verdict: holds-if
Truth: Only if names or shapes differ. The RuntimeError names each parameter and both shapes;
    strict=False does not excuse shapes. By then torch has already copied the parameters that fit.
    Some differences pass without an error: another dtype (float32 is rounded to bfloat16, and 1.7
    becomes 1 in int64), shape (1,) for (), any shape for a lazy layer, and what has no tensor, such
    as tanh for ReLU or another dropout rate. `restore` loads all tensors unchanged or none, and a
    checkpoint with its architecture is refused for the others too.
"""

import re
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dlconcepts.checkpoints import describe, load, restore, save, snapshot
from dlconcepts.networks import Network
from dlconcepts.strategies import FLOATS, networks, shapes, tensors
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.support.checkpoint_files import CheckpointError, load_file
from dlconcepts.testing.laws import law
from tests.checkpoints.common import State, models, parts_of


def loads_what_fits(model: nn.Module, state_dict: State) -> None:
    """Skip the entries that do not fit, without an error."""
    own = model.state_dict()
    fitting = {
        name: tensor
        for name, tensor in state_dict.items()
        if name in own and own[name].shape == tensor.shape
    }
    model.load_state_dict(fitting, strict=False)


def lets_torch_convert(model: nn.Module, state_dict: State, *, strict: bool = True) -> None:
    """Trust load_state_dict, which converts dtypes and unpacks shape (1,) into ()."""
    before = snapshot(model)
    try:
        model.load_state_dict(state_dict, strict=strict)
    except RuntimeError:
        model.load_state_dict(before)
        raise


def is_not_strict(model: nn.Module, state_dict: State) -> None:
    """Use strict=False, which allows missing and unexpected entries."""
    lets_torch_convert(model, state_dict, strict=False)


def loads_half(model: nn.Module, state_dict: State) -> None:
    """Use plain load_state_dict, which copies everything that fits before it raises."""
    model.load_state_dict(state_dict)


def brings_the_parameters_back(model: nn.Module, state_dict: State) -> None:
    """After the error, restore the parameters but not the running statistics."""
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    try:
        model.load_state_dict(state_dict)
    except RuntimeError:
        model.load_state_dict(before, strict=False)
        raise


def hides_the_reason(model: nn.Module, state_dict: State) -> None:
    """Replace PyTorch's message by one without names and shapes."""
    try:
        restore(model, state_dict)
    except RuntimeError:
        raise RuntimeError("this is not the same architecture") from None


@st.composite
def unequal_networks(draw: st.DrawFn) -> tuple[nn.Module, nn.Module]:
    """Draw two networks that differ in the size of a layer or in the number of layers."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    position = draw(st.integers(0, len(sizes)))
    other = [size + (number == position) for number, size in enumerate(sizes)]
    pair = []
    for widths in (sizes, other if other != sizes else [*sizes, 1]):
        norm = nn.BatchNorm1d(widths[0])
        # Unequal statistics show whether a refused load has changed a buffer.
        nn.init.constant_(norm.running_mean, len(pair))
        pair.append(nn.Sequential(norm, *draw(networks(widths))))
    return tuple(reversed(pair) if draw(st.booleans()) else pair)


def ahead(part: str) -> str:
    return f"(?=.*{re.escape(part)})"


@law(
    right=restore,
    wrong={
        loads_what_fits: "DID NOT RAISE",
        is_not_strict: "DID NOT RAISE",
        loads_half: "as it was",
        brings_the_parameters_back: "as it was",
        hides_the_reason: "did not match",
    },
)
@given(pair=unequal_networks())
def test_a_state_dict_of_other_shapes_is_refused(
    bring: Callable[[nn.Module, State], None], pair: tuple[nn.Module, nn.Module]
) -> None:
    """The error names each missing, unexpected or mismatched key; the model does not change."""
    model, other = pair
    here, there = (network.state_dict() for network in pair)
    before = state_of(model)

    # The error names all that does not fit, in any order.
    unfit = [f'"{name}"' for name in here.keys() ^ there.keys()]
    for name in here.keys() & there.keys():
        if here[name].shape != there[name].shape:
            shapes = [str(state[name].shape) for state in (here, there)]
            unfit += [f"{name}: copying a param with shape", *shapes]

    with pytest.raises(RuntimeError, match="(?s)" + "".join(map(ahead, unfit))):
        bring(model, other.state_dict())

    assert state_of(model) == before, "after the error the model is as it was"


def restores_adapted(model: nn.Module, state_dict: State, adapt: Callable[..., Tensor]) -> None:
    own = model.state_dict()
    restore(model, {name: adapt(tensor, own[name]) for name, tensor in state_dict.items()})


def converts_like_arithmetic(model: nn.Module, state_dict: State) -> None:
    """Convert between dtypes of one kind, as arithmetic may: float32 is rounded to bfloat16."""
    restores_adapted(
        model,
        state_dict,
        lambda given, own: given.to(own.dtype) if torch.can_cast(given.dtype, own.dtype) else given,
    )


def takes_over_dtypes(model: nn.Module, state_dict: State) -> None:
    """Use assign=True, which gives the model the dtypes of the file."""
    model.load_state_dict(state_dict, assign=True)


def unpacks_single_numbers(model: nn.Module, state_dict: State) -> None:
    """Take shape (1,) for a single number, as load_state_dict does for old files."""
    restores_adapted(
        model,
        state_dict,
        lambda given, own: given[0] if own.ndim == 0 and given.shape == (1,) else given,
    )


def reshapes(model: nn.Module, state_dict: State) -> None:
    """Reshape each tensor that has as many elements as the model's own."""
    restores_adapted(
        model,
        state_dict,
        lambda given, own: given.reshape(own.shape) if given.numel() == own.numel() else given,
    )


def broadcasts(model: nn.Module, state_dict: State) -> None:
    """Copy each tensor into the model's own with copy_, which broadcasts."""

    def expanded(given: Tensor, own: Tensor) -> Tensor:
        try:
            return given.expand_as(own)
        except RuntimeError:
            return given

    restores_adapted(model, state_dict, expanded)


@st.composite
def given_and_own(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Draw two tensors whose shapes and dtypes are the same or easily taken for the same."""
    shape = draw(shapes(max_dims=3, max_side=3))
    other = draw(
        st.sampled_from(
            [
                *(shape, shape[::-1], (prod(shape),), (1, *shape), (*shape, 1), shape[1:]),
                *((2, *shape), tuple(side + 1 for side in shape)),
            ]
        )
    )
    dtype = draw(st.sampled_from((*FLOATS, torch.int64, torch.int8, torch.bool)))
    other_dtype = draw(st.just(dtype) | st.sampled_from((*FLOATS, torch.int64, torch.uint8)))
    return draw(tensors(other, other_dtype)), torch.zeros(shape, dtype=dtype)


@law(
    right=restore,
    wrong={
        lets_torch_convert: "DID NOT RAISE",
        converts_like_arithmetic: "DID NOT RAISE",
        takes_over_dtypes: "the model's own",
        unpacks_single_numbers: "DID NOT RAISE",
        reshapes: "DID NOT RAISE",
        broadcasts: "DID NOT RAISE",
    },
)
@given(pair=given_and_own(), as_parameter=st.booleans())
def test_a_tensor_is_loaded_unchanged_or_not_at_all(
    bring: Callable[[nn.Module, State], None], pair: tuple[Tensor, Tensor], as_parameter: bool
) -> None:
    """A tensor of the same shape and dtype comes back bit for bit; any other one is refused."""
    given_tensor, own = pair
    model = nn.Module()
    model.register_buffer("first", torch.zeros(2))  # fits, so torch copies it before an error
    if as_parameter and own.is_floating_point():
        model.register_parameter("value", nn.Parameter(own))
    else:
        model.register_buffer("value", own)
    kept = [*model.parameters(), *model.buffers()]
    before, state_dict = state_of(model), {"first": torch.ones(2), "value": given_tensor}

    if (given_tensor.shape, given_tensor.dtype) == (own.shape, own.dtype):
        bring(model, state_dict)
        tensors = zip(kept, [*model.parameters(), *model.buffers()], strict=True)
        assert all(one is other for one, other in tensors), "the tensors stay the model's own"
        assert bits(model.value) == bits(given_tensor), "a tensor that fits comes back bit for bit"
        assert bits(model.first) == bits(torch.ones(2)), "so does every other one"
    else:
        with pytest.raises(RuntimeError, match="value"):
            bring(model, state_dict)
        assert state_of(model) == before, "after the error the model is as it was"


def ends_at_once(model: nn.Module, state_dict: State) -> None:
    """Restore the model after an Exception, which KeyboardInterrupt is not."""
    before = snapshot(model)
    try:
        model.load_state_dict(state_dict)
    except Exception:
        model.load_state_dict(before)
        raise


@law(
    right=restore,
    wrong={loads_half: "as it was", lets_torch_convert: "as it was", ends_at_once: "as it was"},
)
@given(error=st.sampled_from([KeyboardInterrupt, SystemExit, MemoryError]), at=st.integers(1, 2))
def test_an_interrupted_load_changes_nothing(
    bring: Callable[[nn.Module, State], None], error: type[BaseException], at: int
) -> None:
    """Ctrl-C, or any error that is not about the tensors, leaves the model as it was."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Linear(1, 1))
    before = state_of(model)
    new = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    errors = [error()]  # raised once: restoring the model runs the hook again

    def interrupt(*_: object) -> None:
        if errors:
            raise errors.pop()

    model[at].register_load_state_dict_pre_hook(interrupt)

    with pytest.raises(error):
        bring(model, new)

    assert state_of(model) == before, "after the error the model is as it was"


@law(right=restore, wrong={lets_torch_convert: "DID NOT RAISE", takes_over_dtypes: "DID NOT RAISE"})
@given(in_features=st.integers(1, 3), out_features=st.integers(1, 3))
def test_a_lazy_layer_is_refused(
    bring: Callable[[nn.Module, State], None], in_features: int, out_features: int
) -> None:
    """A lazy layer has no shapes before its first batch, so torch would load any into it."""
    model = nn.Sequential(nn.Linear(1, 1), nn.LazyLinear(2))
    before = state_of(model[0])
    other = nn.Sequential(nn.Linear(1, 1), nn.Linear(in_features, out_features))

    with pytest.raises(RuntimeError, match=r"1\.weight, 1\.bias .*lazy"):
        bring(model, other.state_dict())

    assert is_lazy(model[1].weight), "after the error the layer is still lazy"
    assert state_of(model[0]) == before, "the rest of the model is as it was"


def compares_tensors_alone(path: Path, model: Network) -> None:
    """Load the state_dict, and trust that another architecture raises."""
    try:
        restore(model, load_file(path)["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(f"it is for another network: {error}") from error


def compares_architectures_alone(path: Path, model: Network) -> None:
    """Compare the architectures, and let load_state_dict convert the dtypes."""
    found = load_file(path)
    if found["architecture"] != describe(model):
        raise CheckpointError(f"it is for {found['architecture']}")
    lets_torch_convert(model, found["state_dict"])


@law(
    right=load,
    wrong={compares_tensors_alone: "DID NOT RAISE", compares_architectures_alone: "DID NOT RAISE"},
)
@given(saved=models(), model=models(), data=st.data())
def test_a_checkpoint_of_another_architecture_is_refused(
    read: Callable[[Path, Network], None],
    saved: Network,
    model: Network,
    data: st.DataObject,
    folder: Path,
) -> None:
    """Another activation, dropout rate or dtype is refused like another size."""
    differs = data.draw(st.sampled_from(["all", "activation", "dropout", "hidden_features"]))
    dtype = data.draw(st.sampled_from([torch.float32, *FLOATS]))
    if differs != "all":  # only this argument and the dtype
        model = Network(**{**saved.architecture, differs: model.architecture[differs]})
    same_architecture = model.architecture == saved.architecture
    assume(not same_architecture or dtype != torch.float32)
    save(folder / "other.pt", saved.to(dtype), **parts_of(saved))
    before = state_of(model)

    with pytest.raises(CheckpointError, match=str(dtype) if same_architecture else "it is for"):
        read(folder / "other.pt", model)

    assert state_of(model) == before, "after the error the model is as it was"
