"""Photographs, and a network trained on others: drawn ones, and real ones where there are some."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from dlconcepts.weights import load_weights, pretrained
from tests.data import make_weights
from tests.data.make_photographs import PHOTOGRAPHS
from tests.images.common import saved


class Drawn:
    """Clothes that a script draws, and the small network that comes with dlconcepts."""

    data = "drawn photographs and dlconcepts' own weights"
    preset: dict[str, Any] = make_weights.PRESET
    categories = make_weights.KNOWN

    def __repr__(self) -> str:
        return "Drawn()"

    @contextmanager
    def folder(self, *, new: bool) -> Iterator[Path]:
        """Save photographs of the kinds that are new to the network, or of those that it knows."""
        kinds = make_weights.NEW if new else make_weights.KNOWN
        names = [kind.replace("/", " or ") for kind in kinds]
        drawn = enumerate(make_weights.photographs(kinds, seed=100, train=False, each=40))
        with saved({f"{names[k]}/{names[k]}-{n}.png": image for n, (image, k) in drawn}) as root:
            yield root

    def network(self, *, trained: bool) -> nn.Module:
        """Return the network with its weights, or as it is initialised."""
        model = make_weights.network(len(self.categories))
        if trained:
            load_weights(model, make_weights.WEIGHTS)
        return model.eval()


class Real:
    """Tux Paint's photographs, and a network of torchvision."""

    data = "Tux Paint's photographs and torchvision's weights"
    name, file = "mobilenet_v2", "mobilenet_v2-b0353104.pth"

    def __repr__(self) -> str:
        return "Real()"

    @property
    def preset(self) -> dict[str, Any]:
        preset = pretrained(self.name)[1].transforms()
        return {"size": preset.crop_size[0], "mean": preset.mean, "std": preset.std}

    @property
    def categories(self) -> list[str]:
        names: list[str] = pretrained(self.name)[1].meta["categories"]
        return names

    @contextmanager
    def folder(self, *, new: bool) -> Iterator[Path]:
        """Yield the folder; whether its kinds are new to the network depends on their names."""
        yield PHOTOGRAPHS

    def network(self, *, trained: bool) -> nn.Module:
        """Return the network with the weights of ImageNet, or as it is initialised."""
        if trained:
            return pretrained(self.name)[0]
        return models.get_model(self.name, weights=None).eval()


Album = Drawn | Real
ALBUMS: list[Album] = [Drawn()]
if PHOTOGRAPHS.is_dir() and Path(torch.hub.get_dir(), "checkpoints", Real.file).is_file():
    ALBUMS.append(Real())
# CONTRIBUTING.md says how to get the real ones. The report says which were used.
on_each_album = pytest.mark.parametrize(
    "album",
    [
        pytest.param(album, id=type(album).__name__.lower(), marks=pytest.mark.data(album.data))
        for album in ALBUMS
    ],
)
