"""torch.load refuses a file with a whole model, unless one trusts its classes.

>>> import io
>>> file = io.BytesIO()
>>> torch.save(nn.Linear(2, 1), file)
>>> _ = file.seek(0)
>>> torch.load(file)  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
_pickle.UnpicklingError: Weights only load failed...
>>> _ = file.seek(0)
>>> torch.load(file, weights_only=False)
Linear(in_features=2, out_features=1, bias=True)

Notes: To use a saved model elsewhere, import your model and load the file.
Verdict: holds-if
Truth: If the file has the state_dict. A file of a whole model names its classes, and torch.load
    refuses it by default since torch 2.6. With weights_only=False, which can run any code, or with
    the classes in torch.serialization.safe_globals, it loads where the same classes can be imported
    from the same module. It does not have their code: a model runs the forward of the class as it
    is now. A checkpoint of the library names an architecture and holds no code.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.checkpoints import load, save
from dlconcepts.networks import Network
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.checkpoints.common import Store, models, parts_of, values_of


def saves_the_whole_model(path: Path, model: Network, **parts: Any) -> None:
    """Save the model itself, as a pickled object."""
    torch.save(model, path)


def saves_the_model_in_a_dict(path: Path, model: Network, **parts: Any) -> None:
    """Save a dict with all that a checkpoint has, but the model itself in it."""
    torch.save({**parts, "architecture": model.architecture, "model": model}, path)


@law(
    right=save,
    wrong={
        saves_the_whole_model: "can be loaded by default",
        saves_the_model_in_a_dict: "can be loaded by default",
    },
)
@given(model=models())
def test_a_file_that_loads_by_default_has_no_objects(
    store: Store, model: Network, folder: Path
) -> None:
    """torch.load reads a file of tensors and plain values; it refuses one of a whole model."""
    path = folder / "model.pt"

    store(path, model, **parts_of(model))

    try:
        torch.load(path)
    except Exception as error:
        pytest.fail(f"the file can be loaded by default: {error}")
    assert values_of(load(path).model) == values_of(model), "the file has the model's state"


def trusts_its_classes(path: Path, model: nn.Module) -> nn.Module:
    """Allow the classes of the model's layers, and no others."""
    with torch.serialization.safe_globals([*{type(layer) for layer in model.modules()}, set]):
        loaded: nn.Module = torch.load(path)
    return loaded


def trusts_the_model_alone(path: Path, model: nn.Module) -> nn.Module:
    """Allow the model's class, but not those of its layers."""
    with torch.serialization.safe_globals([type(model), set]):
        loaded: nn.Module = torch.load(path)
    return loaded


def imports_the_classes(path: Path, model: nn.Module) -> nn.Module:
    """Trust that it is enough that the classes are imported."""
    loaded: nn.Module = torch.load(path)
    return loaded


@law(
    right=trusts_its_classes,
    wrong={
        trusts_the_model_alone: "every class in the file is trusted",
        imports_the_classes: "every class in the file is trusted",
    },
)
@given(model=models())
def test_a_whole_model_loads_if_its_classes_are_trusted(
    read: Callable[[Path, nn.Module], nn.Module], model: Network, folder: Path
) -> None:
    """A whole model loads if each class in its file is in safe_globals; an import is not enough."""
    path = folder / "whole.pt"
    torch.save(model, path)

    try:
        loaded = read(path, model)
    except Exception as error:
        pytest.fail(f"every class in the file is trusted: {error}")

    assert type(loaded) is type(model), "the model is of its class"
    assert values_of(loaded) == values_of(model), "the state is the model's"


SOURCE = """
class Scaled(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) * {factor}
"""


@contextmanager
def a_module(factor: int) -> Iterator[ModuleType]:
    """Define the class Scaled in a module that can be imported for a block."""
    module = ModuleType("module_of_a_course")
    module.nn = nn
    exec(SOURCE.format(factor=factor), vars(module))
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


def with_the_class(path: Path) -> nn.Module:
    """Load where the class can be imported, with the code that it has there."""
    with a_module(factor=2):
        loaded: nn.Module = torch.load(path, weights_only=False)
    return loaded


def without_the_class(path: Path) -> nn.Module:
    """Load in a program that does not have the class."""
    loaded: nn.Module = torch.load(path, weights_only=False)
    return loaded


def with_the_old_code(path: Path) -> nn.Module:
    """Load where the class still has the code it had when the model was saved."""
    with a_module(factor=1):
        loaded: nn.Module = torch.load(path, weights_only=False)
    return loaded


@law(
    right=with_the_class,
    wrong={
        without_the_class: "the class can be imported",
        with_the_old_code: "the code of the class as it is now",
    },
)
@given(inputs=st.lists(st.integers(1, 9), min_size=2, max_size=2))
def test_a_whole_model_has_no_code_of_its_own(
    read: Callable[[Path], nn.Module], inputs: list[int], folder: Path
) -> None:
    """The file names the class: it must be importable, and a later forward is the one that runs."""
    path = folder / "scaled.pt"
    batch = torch.tensor([inputs], dtype=torch.float32)
    with a_module(factor=1) as module:
        model = module.Scaled(2, 1)
        nn.init.ones_(model.weight)
        saved: Tensor = model(batch)
        torch.save(model, path)

    try:
        loaded = read(path)
    except (AttributeError, ImportError) as error:
        pytest.fail(f"the class can be imported: {error}")

    # Doubling a float is exact, so the outputs are the same to the last bit.
    assert bits(loaded(batch)) == bits(saved * 2), "a model runs the code of the class as it is now"
