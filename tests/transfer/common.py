"""Shared by several claims of the lesson transfer."""

import functools
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision import models
from torchvision.models.regnet import BlockParams

from dlconcepts.support.runs import seeded
from dlconcepts.transfer import has_parameters, untrained

HEADS = ("classifier", "fc", "head", "heads.head")
SHAPES = "only shapes are computed, on the meta device"
BUILDS = "each example builds a network of torchvision and runs it"
# The smallest network of each family, the simplest first, so that a counterexample names a simple
# one. tests/techniques/test_transfer.py runs all classifiers of torchvision.
FAMILIES = (
    *("alexnet", "vgg11", "squeezenet1_1", "resnet18", "mobilenet_v2", "mobilenet_v3_small"),
    *("shufflenet_v2_x0_5", "mnasnet0_5", "googlenet", "inception_v3", "densenet121"),
    *("regnet_x_400mf", "efficientnet_b0", "efficientnet_v2_s", "convnext_tiny", "vit_b_32"),
    *("swin_t", "swin_v2_t", "maxvit_t"),
)


def build(name: str) -> nn.Module:
    """Return an untrained classifier of torchvision on the meta device."""
    from_init_params = BlockParams.from_init_params

    def on_cpu(*args: Any, **kwargs: Any) -> BlockParams:
        # RegNet computes its widths with tensors, which have no values on the meta device.
        with torch.device("cpu"):
            return from_init_params(*args, **kwargs)

    with patch.object(BlockParams, "from_init_params", on_cpu), torch.device("meta"):
        return untrained(name)


def images_for(name: str, model: nn.Module) -> Tensor:
    """Return two images on the meta device, of the size that the network was trained on."""
    weights = next(iter(models.get_model_weights(name)))
    size = getattr(model, "image_size", weights.transforms().crop_size[0])
    return torch.zeros(2, 3, size, size, device="meta")


@contextmanager
def watching(model: nn.Module) -> Iterator[list[tuple[nn.Module, tuple[int, ...]]]]:
    """Record each layer with parameters that runs, in order, with the shape of its input."""
    ran: list[tuple[nn.Module, tuple[int, ...]]] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, args: ran.append((layer, args[0].shape)))
        for layer in model.modules()
        if layer is not model and has_parameters(layer)
    ]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Pretrained(nn.Module):
    """A small stand-in for a pretrained network, with BatchNorm and dropout.

    Images (B, 3) become 4 features, and these become scores of 5 classes in the head. `head` is the
    dotted name of the last layer, and the name of a BatchNorm begins with it (fc_norm). Parameters
    have 1, 2 and `dims` + 2 dimensions, and one, like the class token of a ViT, is in no layer.
    """

    def __init__(
        self, head: str, dropout: float, dtype: torch.dtype, seed: int = 0, dims: int = 2
    ) -> None:
        super().__init__()
        # A counterexample shows these arguments.
        self.drawn = f"Pretrained({head=}, {dropout=}, {dtype=}, {seed=}, {dims=})"
        torch.manual_seed(seed)
        self.stem = nn.Linear(3, 4, dtype=dtype)
        self.shift = nn.Parameter(torch.ones(4, dtype=dtype))
        self.conv = CONVOLUTIONS[dims](4, 4, kernel_size=1, dtype=dtype)
        self.dropout = nn.Dropout(dropout)
        parent, _, child = head.rpartition(".")
        if parent:
            self.add_module(parent, nn.Module())
        setattr(self.get_submodule(parent), f"{child}_norm", nn.BatchNorm1d(4, dtype=dtype))
        setattr(self.get_submodule(parent), child, nn.Linear(4, 5, dtype=dtype))
        self.head_name = head

    def __repr__(self) -> str:
        return self.drawn

    def features(self, images: Tensor) -> Tensor:
        shifted = self.stem(images) + self.shift
        maps = self.conv(shifted.view(-1, *self.conv.weight.shape[1:]))
        norm = self.get_submodule(f"{self.head_name}_norm")
        features: Tensor = self.dropout(norm(maps.flatten(1)))
        return features

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.get_submodule(self.head_name)(self.features(images))
        return scores

    @property
    def head_layer(self) -> nn.Module:
        return self.get_submodule(self.head_name)


@st.composite
def small_networks(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> Pretrained:
    """Draw small networks in train mode, whose head has one of four names."""
    name = draw(st.sampled_from(HEADS), label="head")
    dropout = draw(st.sampled_from([0.0, 0.5]), label="dropout")
    seed = draw(st.integers(0, 99), label="seed")
    return Pretrained(name, dropout, dtype, seed, draw(st.sampled_from([2, 1, 3]), label="dims"))


@st.composite
def photographs(draw: st.DrawFn, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Draw six different images (6, 3) and labels (6,) of 2 classes."""
    # Drawn on the CPU, so that every device gets the same images.
    generator = torch.Generator("cpu").manual_seed(draw(st.integers(0, 99), label="seed"))
    images = torch.randn(6, 3, generator=generator, dtype=dtype, device="cpu")
    return images.to(torch.get_default_device()), torch.tensor([0, 1, 0, 1, 1, 0])


def name_with_hash(name: str, content: bytes) -> str:
    """Return a file's name as torchvision gives it: it ends in the start of the SHA-256."""
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}.pth"


def content_of(state_dict: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    return buffer.getvalue()


def save_as_torchvision_does(model: nn.Module, folder: Path) -> Path:
    content = content_of(model.state_dict())
    path = folder / name_with_hash("small", content)
    path.write_bytes(content)
    return path


@functools.cache
def mobilenet_file(version: int) -> bytes:
    """Return a file of random weights for MobileNetV2, with the version as the head's bias."""
    with seeded(0, torch.device("cpu")):
        state = untrained("mobilenet_v2").state_dict()
    state["classifier.1.bias"].fill_(version)
    return content_of(state)


def nodes_of(tensor: Tensor) -> set[Any]:
    """Return the operations of the backward pass that starts at a tensor."""
    nodes, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [after for after, _ in node.next_functions]
    return nodes


def softmaxes_at_the_end(scores: Tensor) -> list[str]:
    """Return the softmax operations between the last layer with a bias and a network's output."""
    found, node = [], scores.grad_fn
    while node is not None and not any(hasattr(n, "variable") for n, _ in node.next_functions):
        if "softmax" in node.name().lower():
            found.append(node.name())
        node = node.next_functions[0][0]
    return found


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    *,
    steps: int,
    zero_first: bool = True,
    set_to_none: bool = True,
) -> None:
    """Train for a few steps in train mode, as a loop that knows nothing about freezing does."""
    images, labels = batch
    model.train()

    def closure() -> Tensor:  # LBFGS calls it several times a step
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    for _ in range(steps):
        if zero_first:
            optimizer.zero_grad(set_to_none=set_to_none)
        optimizer.step(closure)
        if not zero_first:
            optimizer.zero_grad(set_to_none=set_to_none)
