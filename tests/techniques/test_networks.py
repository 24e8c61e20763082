"""Techniques of networks, beyond the claims."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from dlconcepts.networks import Network
from dlconcepts.transfer import TransferNetwork


@pytest.mark.parametrize(
    "build",
    [lambda sizes: Network(4, sizes, 2), lambda sizes: TransferNetwork("alexnet", sizes, 2)],
    ids=["Network", "TransferNetwork"],
)
def test_the_architecture_is_a_copy(build: Callable[[list[int]], nn.Module]) -> None:
    """A caller may change the sizes given, and those returned, without changing the network."""
    sizes = [3]
    model = build(sizes)

    sizes.append(1)
    model.architecture["hidden_features"].append(2)

    assert model.architecture["hidden_features"] == [3]


@pytest.mark.parametrize("size", [2.0, True])  # True is an int, but nobody means it as a size
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_size_is_an_integer(size: Any, place: int) -> None:
    """A size of another type raises ValueError wherever it stands."""
    sizes = [3, 3, 3]
    sizes[place] = size

    with pytest.raises(ValueError, match=f"at least 1.*{size}"):
        Network(sizes[0], [sizes[1]], sizes[2])


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_single_row_is_no_batch(shape: tuple[int, ...]) -> None:
    """Images without a batch dimension raise, also if the width would fit."""
    with pytest.raises(ValueError, match=r"a batch, \(B, ...\)"):
        Network(1, [2], 2)(torch.zeros(shape))
