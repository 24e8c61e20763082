"""Dimension 0 counts the examples, and each output depends on its example alone.

>>> layer = nn.Linear(2, 4)
>>> batch = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
>>> layer(batch).shape
torch.Size([3, 4])
>>> torch.allclose(layer(batch)[1], layer(batch[1]), atol=1e-5)
True
>>> torch.allclose(layer(batch.flip(0)), layer(batch).flip(0), atol=1e-5)
True

Notes: Dimension 0 is the number of examples, dimension 1 the vector passed through.
Verdict: holds
Truth: In eval mode an example gets the same output alone, in another order, or with other examples
    in its batch, up to rounding.
"""

import math
from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.networks import Network
from dlconcepts.testing.laws import law
from tests.networks.common import Sizes, activations, deep, fill, inputs, seeds


class SoftmaxOverTheBatch(Network):
    """A network that ends in a softmax over dimension 0, the examples."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(0)


class MixesExamples(Network):
    """A network that transposes the batch before it reshapes it, which mixes the examples."""

    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)
        return super().forward(rows.T.reshape(rows.shape))


class SubtractsTheBatchMean(Network):
    """A network that subtracts the mean of the batch from its inputs."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - images.mean(0))


@law(
    right=Network,
    wrong={
        SoftmaxOverTheBatch: "depends on that example alone",
        MixesExamples: "depends on that example alone",
        SubtractsTheBatchMean: "depends on that example alone",
    },
)
@given(
    sizes=deep,
    activation=activations,
    dropout=st.sampled_from([0.0, 0.5]),
    seed=seeds,
    data=st.data(),
)
def test_an_output_depends_on_its_example_alone(
    build: Callable[..., nn.Module],
    sizes: Sizes,
    activation: str,
    dropout: float,
    seed: int,
    data: st.DataObject,
) -> None:
    """In eval mode an example scores the same alone, reordered, or with other neighbours."""
    model = build(*sizes, activation=activation, dropout=dropout).double().eval()
    fill(model, seed)
    batch = data.draw(st.integers(1, 3), label="batch")
    images = data.draw(inputs(batch, sizes[0]), label="images")
    others = data.draw(inputs(batch, sizes[0]), label="neighbours")
    order = data.draw(st.permutations(range(batch)), label="order")
    row = data.draw(st.integers(0, batch - 1), label="row")
    others = torch.cat([others[:row], images[row : row + 1], others[row + 1 :]])
    # Another batch size may add in another order, so allow 1e-13 of the largest possible sum: the
    # weights' and biases' absolute values, multiplied through the layers, times the largest input.
    sums = [float(part.detach().abs().sum()) for part in model.parameters()]
    largest = math.prod(1 + one + other for one, other in zip(sums[::2], sums[1::2], strict=True))
    tolerance = {"rtol": 0, "atol": 1e-13 * largest * (1 + float(images.abs().max()))}

    output = model(images)

    message = "an example's output depends on that example alone"
    alone = torch.cat([model(image) for image in images.split(1)])
    torch.testing.assert_close(alone, output, **tolerance, msg=message)
    torch.testing.assert_close(model(images[order]), output[order], **tolerance, msg=message)
    torch.testing.assert_close(model(others)[row], output[row], **tolerance, msg=message)
