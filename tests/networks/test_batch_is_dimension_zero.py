"""The batch is dimension 0.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: Dimension 0 is the number of examples, dimension 1 the vector passed through.
Verdict: holds
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
    """A network that ends in a softmax over dimension 0."""

    def forward(self, images: Tensor) -> Tensor:
        """Share each class out among the examples."""
        return super().forward(images).softmax(0)


class MixesExamples(Network):
    """A network that transposes on the way to its rows."""

    def forward(self, images: Tensor) -> Tensor:
        """Read the batch column by column."""
        rows = images.flatten(1)
        return super().forward(rows.T.reshape(rows.shape))


class SubtractsTheBatchMean(Network):
    """A network that centres its inputs with the mean of the batch they are in."""

    def forward(self, images: Tensor) -> Tensor:
        """Subtract the mean over dimension 0."""
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
    """In eval mode, alone, in another order, or with other neighbours an example scores the same.

    Up to 1e-13 of the largest sum: another batch size may add in another order.
    """
    model = build(*sizes, activation=activation, dropout=dropout).double().eval()
    fill(model, seed)
    batch = data.draw(st.integers(1, 3), label="batch")
    images = data.draw(inputs(batch, sizes[0]), label="images")
    others = data.draw(inputs(batch, sizes[0]), label="neighbours")
    order = data.draw(st.permutations(range(batch)), label="order")
    row = data.draw(st.integers(0, batch - 1), label="row")
    others = torch.cat([others[:row], images[row : row + 1], others[row + 1 :]])
    sums = [float(part.detach().abs().sum()) for part in model.parameters()]
    largest = math.prod(1 + one + other for one, other in zip(sums[::2], sums[1::2], strict=True))
    tolerance = {"rtol": 0, "atol": 1e-13 * largest * (1 + float(images.abs().max()))}

    output = model(images)

    message = "an example's output depends on that example alone"
    alone = torch.cat([model(image) for image in images.split(1)])
    torch.testing.assert_close(alone, output, **tolerance, msg=message)
    torch.testing.assert_close(model(images[order]), output[order], **tolerance, msg=message)
    torch.testing.assert_close(model(others)[row], output[row], **tolerance, msg=message)
