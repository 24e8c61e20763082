"""The training and the evaluation pipeline normalise with the same statistics.

>>> from PIL import Image
>>> from dlconcepts.images import eval_pipeline, train_pipeline
>>> red = Image.new("RGB", (20, 10), "red")
>>> train_pipeline(4, degrees=0)(red)[:, 0, 0]
tensor([ 2.2489, -2.0357, -1.8044])
>>> eval_pipeline(4)(red)[:, 0, 0]
tensor([ 2.2489, -2.0357, -1.8044])

Notes: (implied) What the model is tested on should look like what it was trained on.
Verdict: holds
Truth: By default both use the statistics of ImageNet, on which torchvision's pretrained networks
    were trained.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import MobileNet_V2_Weights

from dlconcepts.images import eval_pipeline, train_pipeline
from dlconcepts.support.bitwise import bits
from dlconcepts.testing.laws import law
from tests.images.common import HOST, RAW, Transform

Pipelines = tuple[Transform, Transform]


def both_pipelines(**statistics: Any) -> Pipelines:
    """Give both pipelines the same statistics, by default those of ImageNet."""
    # The corners that a rotation fills would be white, not the colour of the image.
    return train_pipeline(4, degrees=0, **statistics), eval_pipeline(4, **statistics)


def normalises_training_only(**statistics: Any) -> Pipelines:
    """Leave the test images between 0 and 1."""
    return both_pipelines(**statistics)[0], eval_pipeline(4, **RAW)


def forgets_the_given_statistics(**statistics: Any) -> Pipelines:
    """Pass the statistics to the training pipeline only."""
    return both_pipelines(**statistics)[0], eval_pipeline(4)


def halves(**statistics: Any) -> Pipelines:
    """Default to 0.5, as for Fashion-MNIST, where ImageNet's statistics were meant."""
    return both_pipelines(**(statistics or {"mean": (0.5,) * 3, "std": (0.5,) * 3}))


def uses_each_image_statistics(**statistics: Any) -> Pipelines:
    """Subtract from each test image its own mean."""
    train, test = both_pipelines(**statistics)
    return train, lambda image: test(image) - test(image).mean((1, 2), keepdim=True)


@law(
    right=both_pipelines,
    wrong={
        normalises_training_only: "the same in both",
        forgets_the_given_statistics: "the same in both",
        uses_each_image_statistics: "the same in both",
        halves: "the pretrained network's statistics",
    },
    cpu_only=HOST,
)
@given(colour=st.tuples(*[st.integers(0, 255)] * 3), own=st.booleans(), data=st.data())
def test_both_pipelines_normalise_alike(
    pipelines: Callable[..., Pipelines],
    colour: tuple[int, int, int],
    own: bool,
    data: st.DataObject,
) -> None:
    """A colour becomes (colour / 255 - mean) / std in both pipelines, ImageNet's by default."""
    numbers = st.tuples(*[st.integers(1, 99).map(lambda number: number / 100)] * 3)
    statistics = {name: data.draw(numbers, label=name) for name in ("mean", "std")} if own else {}
    image = Image.new("RGB", (6, 5), colour)

    train, test = (pipeline(image) for pipeline in pipelines(**statistics))

    official = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    mean = np.array(statistics.get("mean", official.mean))
    std = np.array(statistics.get("std", official.std))
    expected = torch.from_numpy((np.array(colour) / 255 - mean) / std)[:, None, None]
    assert bits(train) == bits(test), "a colour is the same in both"
    close = torch.allclose(train.double(), expected.expand(3, 4, 4), rtol=1e-5, atol=1e-5)
    assert close, "it is normalised with the pretrained network's statistics, or the given ones"
