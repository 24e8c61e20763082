"""Pretrained weights come with a hash and with the normalisation of their images.

>>> from torchvision.models import ResNet18_Weights
>>> weights = ResNet18_Weights.IMAGENET1K_V1
>>> len(weights.meta["categories"])
1000
>>> weights.transforms().mean
[0.485, 0.456, 0.406]
>>> weights.url.rpartition("/")[2]  # f37072fd begins the SHA-256 of the file
'resnet18-f37072fd.pth'

Notes: Models trained on ImageNet can be imported from torchvision directly.
Verdict: holds
Truth: The weights load from torchvision's cache folder, bit for bit, and recognise photographs that
    are normalised as in training. A damaged or missing file is an error that says what to do.
"""

import functools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torchvision import models
from torchvision.models import MobileNet_V2_Weights as MobileNet

from dlconcepts.images import MEAN, STD, eval_pipeline, image_folder, read_rgb
from dlconcepts.loading import normalize
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.support.datasets import fashion_mnist
from dlconcepts.support.runs import seeded
from dlconcepts.testing.laws import law
from dlconcepts.training import fit
from dlconcepts.weights import WeightsError, check_hash, load_weights, pretrained
from tests.checkpoints.common import GADGETS
from tests.images.albums import Album, on_each_album
from tests.transfer import common
from tests.transfer.common import Pretrained, save_as_torchvision_does, small_networks

ON_THE_CPU = "photographs are read and classified there"
UNKNOWN = "resnet_18"


def trusts_the_file(model: nn.Module, path: Path) -> None:
    """Load the file without checking its hash."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def skips_the_file(model: nn.Module, path: Path) -> None:
    """Check the file but keep the random weights of weights=None."""
    check_hash(path)


def loads_what_fits(model: nn.Module, path: Path) -> None:
    """Load with strict=False, which skips every name that does not match."""
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
    """Every tensor is the file's; a file of another model raises and changes nothing."""
    before = state_of(model)
    other(torch.ones(3, 3))  # moves its running statistics and counts a batch
    fits = shapes_of(model) == shapes_of(other)
    with tempfile.TemporaryDirectory() as folder:
        path = save_as_torchvision_does(other, Path(folder))
        if fits:
            load_weights(model, path)
        else:
            with pytest.raises(WeightsError, match="cannot be used"):
                load_weights(model, path)

    expected = state_of(other) if fits else before
    tensors = {name for name, _ in model.state_dict().items()}
    assert {name: state_of(model)[name] for name in tensors} == {
        name: expected[name] for name in tensors
    }, "every tensor is the file's"


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@law(right=load_weights, wrong={trusts_the_file: "DID NOT RAISE"})
@given(model=small_networks(), data=st.data())
def test_a_damaged_file_is_refused(
    load_weights: Callable[[nn.Module, Path], None], model: Pretrained, data: st.DataObject
) -> None:
    """A file with one flipped bit is not loaded, since its name has its hash."""
    with tempfile.TemporaryDirectory() as folder:
        path = save_as_torchvision_does(model, Path(folder))
        content = bytearray(path.read_bytes())
        weight = bits(model.stem.weight).bytes
        position = data.draw(st.integers(0, len(weight) - 1), label="byte of stem.weight")
        content[content.index(weight) + position] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        path.write_bytes(content)
        before = state_of(model)

        with pytest.raises(WeightsError, match="damaged"):
            load_weights(model, path)

    assert state_of(model) == before, "the model stays as it was"


def picks_the_tensors(model: nn.Module, path: Path) -> None:
    """Pick the tensors out of whatever the file holds, also if it runs code."""
    found = torch.load(path, weights_only=False) if path.exists() else {}
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    model.load_state_dict({k: v for k, v in found.items() if isinstance(v, Tensor)}, strict=False)


@law(right=load_weights, wrong={picks_the_tensors: "DID NOT RAISE"})
@given(
    model=small_networks(),
    content=st.sampled_from(["no file", "a number", "a checkpoint", "a list", *GADGETS]),
)
def test_a_file_of_other_things_is_refused(
    load_weights: Callable[[nn.Module, Path], None], model: Pretrained, content: str
) -> None:
    """A missing file, or one that holds anything but tensors, is an error and runs no code."""
    with tempfile.TemporaryDirectory() as folder:
        path, marker, state = Path(folder, "w.pth"), Path(folder, "run"), model.state_dict()
        found: Any = {"a number": {**state, "epoch": 1}, "a checkpoint": {"state_dict": state}}
        found = found.get(content, [state])
        if content in GADGETS:
            found = {**state, "gadget": GADGETS[content](str(marker))}
        if content != "no file":
            torch.save(found, path)
        before = state_of(model)

        with pytest.raises(WeightsError, match=r"cannot be used|missing"):
            load_weights(model, path)

        assert not marker.exists(), "no code is run"
    assert state_of(model) == before, "the model stays as it was"


def gives_an_untrained_one(name: str) -> object:
    """Return the network of weights=None as if it were pretrained."""
    with torch.device("meta"):
        return models.get_model(name, weights=None)


@law(
    right=pretrained,
    wrong={gives_an_untrained_one: "DID NOT RAISE"},
    cpu_only="it only looks for files",
)
@given(name=st.sampled_from(["resnet18", UNKNOWN, *models.list_models(module=models)]))
def test_missing_weights_are_an_error_that_says_where_to_put_them(
    pretrained: Callable[[str], object], name: str
) -> None:
    """If the cache folder has no weights, the error names the file, the folder and the option."""
    with tempfile.TemporaryDirectory() as folder, patch("torch.hub.get_dir", lambda: folder):
        error = ValueError if name == UNKNOWN else WeightsError
        with pytest.raises(error, match=r"no classifier|--download") as caught:
            pretrained(name)

        assert not list(Path(folder).iterdir()), "nothing is written"
    if name == UNKNOWN:
        return
    assert str(Path(folder, "checkpoints")) in str(caught.value), "the folder is named"
    default = models.get_model_weights(name).DEFAULT
    assert default.url.rpartition("/")[2] in str(caught.value), "the file is named"


def in_train_mode(name: str) -> tuple[nn.Module, models.WeightsEnum]:
    """Return the network in train mode."""
    model, weights = pretrained(name)
    return model.train(), weights


def with_random_weights(name: str) -> tuple[nn.Module, models.WeightsEnum]:
    """Return the right weights, and a network without them."""
    return models.get_model(name, weights=None).eval(), pretrained(name)[1]


def prefers_the_oldest(name: str) -> tuple[nn.Module, models.WeightsEnum]:
    """Return the first weights that torchvision lists, whichever are there."""
    model, weights = pretrained(name)
    return model, next(iter(type(weights)))


def trusts_the_cache(name: str) -> tuple[nn.Module, models.WeightsEnum]:
    """Load what is in the cache folder without checking its hash."""
    with patch("dlconcepts.weights.check_hash"):
        return pretrained(name)


@law(
    right=pretrained,
    wrong={
        in_train_mode: "in eval mode",
        with_random_weights: "the file's weights",
        prefers_the_oldest: "the default comes first",
        trusts_the_cache: "DID NOT RAISE",
    },
    share=0.04,
    because="each example loads a network",
    cpu_only="weights are loaded there",
)
@given(there=st.sampled_from(["1", "2", "12", "damaged"]))
def test_the_first_weights_in_the_cache_are_loaded(
    pretrained: Callable[[str], tuple[nn.Module, models.WeightsEnum]], there: str
) -> None:
    """Torchvision's default comes before the others; a damaged file is an error."""
    kinds = dict(zip("12", MobileNet, strict=True))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(patch("torch.hub.get_dir", lambda: str(folder)))
        (folder / "checkpoints").mkdir()
        for version, kind in kinds.items():
            content = common.mobilenet_file(int(version))
            name = common.name_with_hash("mobilenet", content)
            bias = np.full(1000, version, "f4").tobytes()
            stack.enter_context(patch.object(kind.value, "url", f"https://none.invalid/{name}"))
            if there == "damaged":
                content = content.replace(bias, bytes(4000))
            if there == "damaged" or version in there:
                (folder / "checkpoints" / name).write_bytes(content)

        if there == "damaged":
            with pytest.raises(WeightsError, match="damaged"):
                pretrained("mobilenet_v2")
            return
        model, weights = pretrained("mobilenet_v2")

    assert weights == kinds[there[-1]], "the default comes first, and the others if it is missing"
    assert not any(module.training for module in model.modules()), "the network is in eval mode"
    assert model.classifier[1].bias[0] == int(there[-1]), "the network has the file's weights"


Recogniser = tuple[nn.Module, Callable[[Image.Image], Tensor]]


@functools.cache
def trained() -> nn.Module:
    """Train a network on the photographs of clothes that come with the library."""
    images, labels = clothes(train=True)
    with seeded(0, torch.device("cpu")):
        model = empty_network()
        fit(model, (normalised_as_in_training(images), labels), epochs=1)
    return model.eval()


@functools.cache
def clothes(train: bool) -> tuple[Tensor, Tensor]:
    data = fashion_mnist(train=train)
    # 2,000 examples are enough for a linear network to recognise seven photographs of ten.
    return data.images[:2000], data.labels[:2000]


def empty_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10))


def normalised_as_in_training(images: Tensor) -> Tensor:
    return normalize(images.unsqueeze(1).expand(-1, 3, -1, -1), mean=MEAN, std=STD)


@functools.cache
def loaded() -> nn.Module:
    model = empty_network()
    with tempfile.TemporaryDirectory() as folder:
        load_weights(model, save_as_torchvision_does(trained(), Path(folder)))
    return model.eval()


def loaded_and_normalised() -> Recogniser:
    """Load the weights, and normalise images as in their training."""
    return loaded(), eval_pipeline(28, resize=28)


def loaded_but_not_normalised() -> Recogniser:
    """Load the weights, but only scale the images from 0 to 1."""
    return loaded(), eval_pipeline(28, resize=28, mean=(0, 0, 0), std=(1, 1, 1))


def loaded_but_normalised_by_half() -> Recogniser:
    """Load the weights, but normalise with 0.5, as for other networks of the course."""
    return loaded(), eval_pipeline(28, resize=28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def normalised_but_not_loaded() -> Recogniser:
    """Normalise the images, but keep the random weights."""
    with seeded(0, torch.device("cpu")):
        return empty_network().eval(), eval_pipeline(28, resize=28)


@law(
    right=loaded_and_normalised,
    wrong={
        loaded_but_not_normalised: "guesses what the trained one guessed",
        loaded_but_normalised_by_half: "guesses what the trained one guessed",
        normalised_but_not_loaded: "recognises most photographs",
    },
    share=0.1,
    because="each example classifies 100 photographs",
    cpu_only=ON_THE_CPU,
)
@given(start=st.integers(0, 900))
def test_loaded_weights_recognise_what_the_trained_network_did(
    recogniser: Callable[[], Recogniser], start: int
) -> None:
    """If normalised as in training, photographs are recognised as by the trained network."""
    images, labels = (part[start : start + 100] for part in clothes(train=False))
    model, transform = recogniser()

    with torch.no_grad():
        guesses = model(
            torch.stack([transform(Image.fromarray(image.numpy())) for image in images])
        ).argmax(dim=1)
        expected = trained()(normalised_as_in_training(images)).argmax(dim=1)

    right = int((guesses == labels).sum())
    assert right > 50, f"the network recognises most photographs: {right} of 100"
    assert guesses.equal(expected), "the loaded network guesses what the trained one guessed"


@functools.cache
def normalised(album: Album) -> Recogniser:
    """Load the weights, and normalise images as in their training."""
    return album.network(trained=True), eval_pipeline(**album.preset)


def not_normalised(album: Album) -> Recogniser:
    """Scale the images from 0 to 1 and do not normalise them."""
    raw = {**album.preset, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return normalised(album)[0], eval_pipeline(**raw)


def without_weights(album: Album) -> Recogniser:
    """Build the network with random weights."""
    return album.network(trained=False), normalised(album)[1]


@functools.cache
def named_photographs(album: Album) -> tuple[list[Image.Image], Tensor]:
    """Return the photographs whose file names contain a category that the network knows."""
    # Some names mislead: ImageNet's mouse is a computer mouse.
    categories = [name.lower() for name in album.categories]
    with album.folder(new=False) as root:
        named = [
            (read_rgb(path), categories.index(part))
            for path, _ in image_folder(root).samples
            for part in path.stem.lower().replace("_", " ").split("-")
            if part in categories
        ]
    return [image for image, _ in named], torch.tensor([label for _, label in named])


@functools.cache
def count_recognised(
    recogniser: Callable[[Album], Recogniser], album: Album, mirrored: bool
) -> tuple[int, int]:
    """Return how many of the named photographs are recognised, and how many there are."""
    photographs, labels = named_photographs(album)
    model, transform = recogniser(album)
    images = torch.stack([transform(image) for image in photographs])
    with torch.no_grad():
        guesses = model(images.flip(-1) if mirrored else images).argmax(dim=1)
    return int((guesses == labels).sum()), len(labels)


@law(
    right=normalised,
    wrong={not_normalised: "recognises most", without_weights: "recognises most"},
    cpu_only=ON_THE_CPU,
)
@given(mirrored=st.booleans())
@on_each_album
def test_pretrained_weights_recognise_photographs(
    recogniser: Callable[[Album], Recogniser], album: Album, mirrored: bool
) -> None:
    """For most photographs the first guess of a network is the category in the file's name."""
    # Hypothesis runs both examples that exist: the photographs as they are, and mirrored.
    right, total = count_recognised(recogniser, album, mirrored)

    assert right > total / 2, f"the network recognises most photographs: {right} of {total}"
