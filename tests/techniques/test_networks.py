"""Techniques of networks, beyond the claims."""

from collections.abc import Callable

import pytest
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
