"""Lesson 8, the weights: load pretrained weights unchanged, or raise an error."""

import hashlib
import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn
from torchvision import models

from dlconcepts.checkpoints import restore
from dlconcepts.support.errors import UserError, nearest


class WeightsError(UserError):
    """The pretrained weights are missing, damaged, or belong to another model."""


def pretrained(name: str, *, download: bool = False) -> tuple[nn.Module, models.WeightsEnum]:
    """Return a torchvision classifier with ImageNet weights, in eval mode, and these weights.

    It uses the first weights whose file, `file_name`, is in the cache folder, `checkpoints` in
    `torch.hub.get_dir()`, torchvision's default before the others; weights without categories do
    not count. `models.get_model` then builds the classifier with them. If there are none,
    `download` downloads the default. The `transforms()` of the weights have the size and the
    normalisation of their images.

    Raises WeightsError if the file is missing, naming it and the folder, or fails `check_hash`;
    ValueError if torchvision has no such classifier.
    Source: torchvision documentation, "Models and pre-trained weights"; PyTorch documentation,
    `torch.hub`, for the folder and `TORCH_HOME`, which moves it.
    """
    if name not in models.list_models(module=models):
        near = nearest(name, models.list_models(module=models), "see torchvision.models")
        raise ValueError(f"torchvision has no classifier {name!r}{near}")
    kinds = models.get_model_weights(name)
    # Weights without categories are not for classification.
    known = sorted((w for w in kinds if w.meta["categories"]), key=lambda w: w != kinds.DEFAULT)
    folder = Path(torch.hub.get_dir(), "checkpoints")
    weights = next((w for w in known if (folder / file_name(w)).is_file()), None)
    if weights is not None:
        check_hash(folder / file_name(weights))
    elif not download:
        raise WeightsError(
            f"the ImageNet weights of {name} are not in the folder {folder}: copy "
            f"{' or '.join(map(file_name, known))} there, or download {known[0].url} with "
            "--download (download=True)"
        )
    weights = weights or known[0]
    return models.get_model(name, weights=weights).eval(), weights


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load into a model a state_dict written by `torch.save`, either completely or not at all.

    If the file is named like torchvision's own, name-hash.pth, it must have that hash.

    Raises WeightsError if the file is missing or damaged, holds anything but tensors, or does not
    fit the model.
    Source: PyTorch documentation, `torch.load` with `weights_only`.
    """
    try:
        check_hash(path)
        restore(model, torch.load(path, map_location="cpu", weights_only=True))
    except WeightsError:
        raise
    except UnpicklingError as error:
        raise WeightsError(
            f"the weights {path} cannot be used: the file holds something other than tensors, "
            "perhaps pickled code, which was not run; use the file of a state_dict"
        ) from error
    # PyTorch does not document what torch.load raises for a file that it cannot read.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"the weights {path} cannot be used: {reason}") from error


def check_hash(path: str | Path) -> None:
    """Raise WeightsError if a file's name ends in a hash that is not the start of its SHA-256.

    PyTorch checks the hash when it downloads the file, but not when it finds it in the cache.
    Source: PyTorch documentation, `torch.hub.load_state_dict_from_url`, `check_hash`.
    """
    named = re.search(r"-([0-9a-f]{8,})\.\w+$", Path(path).name)
    if named is None:
        return
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if not digest.startswith(named[1]):
        raise WeightsError(
            f"the weights {path} are damaged: their SHA-256 begins with {digest[: len(named[1])]}, "
            f"not {named[1]}; delete the file and download it again"
        )


def file_name(weights: models.WeightsEnum) -> str:
    """Return the name of the weights' file."""
    return Path(weights.url).name
