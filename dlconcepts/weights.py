"""Lesson 8, the weights: those that others have trained on ImageNet, as they were, or an error."""

import hashlib
import re
from pathlib import Path

import torch
from torch import nn
from torchvision import models

from dlconcepts.checkpoints import restore


class WeightsError(RuntimeError):
    """Pretrained weights that are not there, damaged, or those of another model."""


def pretrained(name: str, *, download: bool = False) -> tuple[nn.Module, models.WeightsEnum]:
    """Return a torchvision classifier in eval mode with weights trained on ImageNet, and which.

    Of the weights that torchvision has for it, its default first, those are taken whose file is in
    the cache folder, or with `download` the default ones are fetched if there is none. Their
    `transforms()` say how large its images are and how they are normalised.

    Raises WeightsError if there is no file, saying where to put one, or if it is damaged, and
    ValueError if torchvision has no such classifier.
    Source: torchvision documentation, "Models and pre-trained weights"; PyTorch documentation,
    `torch.hub`, for the folder and `TORCH_HOME`, which moves it.
    """
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}; see torchvision.models")
    kinds = models.get_model_weights(name)
    # Weights without categories are for something else than classification.
    known = sorted((w for w in kinds if w.meta["categories"]), key=lambda w: w != kinds.DEFAULT)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    weights = next((w for w in known if (folder / file_name(w)).is_file()), None)
    if weights is not None:
        check_hash(folder / file_name(weights))
    elif not download:
        raise WeightsError(
            f"the ImageNet weights of {name} are not in the folder {folder}: put "
            f"{' or '.join(map(file_name, known))} there, or let {known[0].url} be downloaded to "
            "it with --download (download=True)"
        )
    weights = weights or known[0]
    return models.get_model(name, weights=weights).eval(), weights


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a file of weights, a state_dict of `torch.save`, into a model, all of it or nothing.

    A file named as torchvision names its own, name-hash.pth, must have that hash.

    Raises WeightsError if the file is missing, damaged, holds anything but tensors, or if its
    tensors are not those of the model.
    Source: PyTorch documentation, `torch.load` with `weights_only`.
    """
    try:
        check_hash(path)
        restore(model, torch.load(path, map_location="cpu", weights_only=True))
    except WeightsError:
        raise
    # What a file that is none makes torch.load raise is not documented.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the weights {path} cannot be used: {reason}") from error


def check_hash(path: str | Path) -> None:
    """Raise WeightsError if a file's name ends with the start of a SHA-256 that is not its own.

    PyTorch looks at the hash when it downloads the file, not when it finds it in the cache folder.
    Source: PyTorch documentation, `torch.hub.load_state_dict_from_url`, `check_hash`.
    """
    named = re.search(r"-([0-9a-f]{8,})\.\w+$", Path(path).name)
    if named is None:
        return
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if not digest.startswith(named[1]):
        raise WeightsError(
            f"the weights {path} are damaged: their SHA-256 begins with {digest[: len(named[1])]}, "
            f"not {named[1]}; remove the file and get it again"
        )


def file_name(weights: models.WeightsEnum) -> str:
    """Return the name of the file that holds weights."""
    return Path(weights.url).name
