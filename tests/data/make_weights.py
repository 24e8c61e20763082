"""Train the small network of dlconcepts on drawn photographs of clothes.

Run `python -m tests.data.make_weights FOLDER`; it takes 20 seconds. The network learns six
kinds from the training images of the sample of Fashion-MNIST, drawn anew in each epoch. `ACCURACY`
is its share of right guesses for photographs of test images. The other four kinds are new to it.

The seeds are fixed: a machine gives the same file each time. Another rounds differently, and
training magnifies that: the accuracy is about the same.
"""

import argparse
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from dlconcepts.images import eval_pipeline
from dlconcepts.support.datasets import CLASSES, SAMPLE, fashion_mnist
from dlconcepts.support.runs import seeded

WEIGHTS = SAMPLE / "clothes-d11f0977.pth"
SEED, EPOCHS, ACCURACY = 0, 14, 0.77
KNOWN = ("Pullover", "Dress", "Coat", "Shirt", "Sneaker", "Ankle boot")
NEW = tuple(name for name in CLASSES if name not in KNOWN)
SIDE = 40
Labelled = list[tuple[Image.Image, int]]
# Pale photographs: without this normalisation the network sees little of them.
PRESET: dict[str, Any] = {"size": SIDE, "resize": SIDE, "mean": (0.75,) * 3, "std": (0.15,) * 3}


def network(kinds: int, channels: Sequence[int] = (16, 32, 64, 128)) -> nn.Sequential:
    """Return an untrained convolutional network; its last layer is the head."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *channels), channels, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], kinds)]
    return nn.Sequential(*layers, *pool)


def photographs(kinds: Sequence[str], *, seed: int, train: bool, each: int) -> Labelled:
    """Draw the first `each` clothes of each kind in the sample; return them with their labels."""
    data, rng = fashion_mnist(train=train), np.random.default_rng(seed)
    return [
        (photograph(garment, rng), label)
        for label, kind in enumerate(kinds)
        for garment in data.images[data.labels == CLASSES.index(kind)][:each].numpy()
    ]


def photograph(garment: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """Draw a garment, (28, 28), in some colour on a mottled ground, mirrored or not."""
    colour = rng.integers(0, 128, 3)
    # Half the range from the garment in each channel, so a garment is darker or brighter.
    ground = (colour + 64) % 128 + rng.integers(-20, 21, (5, 5, 3))
    image = Image.fromarray((128 + ground.clip(0, 127)).astype(np.uint8))
    image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    side = int(rng.integers(32, SIDE + 1))
    x, y = rng.integers(0, SIDE - side + 1, 2).tolist()
    shape = Image.fromarray(garment[:, :: int(rng.choice([-1, 1]))].copy()).resize((side, side))
    image.paste(tuple((128 + colour).tolist()), (x, y, x + side, y + side), shape)
    return image


def batch_of(drawn: Labelled) -> tuple[Tensor, Tensor]:
    """Return normalised images, (N, 3, 40, 40), and labels, (N,)."""
    transform = eval_pipeline(**PRESET)
    images = torch.stack([transform(image) for image, _ in drawn])
    return images, torch.tensor([label for _, label in drawn])


def train(epochs: int = EPOCHS, each: int = 600) -> nn.Sequential:
    """Return the network after training on the first `each` images of each kind, in eval mode."""
    with seeded(SEED, torch.device("cpu")):
        model = network(len(KNOWN))
        optimizer = torch.optim.Adam(model.parameters())
        steps = epochs * -(-each * len(KNOWN) // 100)  # rounded up
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
        for epoch in range(epochs):
            images, labels = batch_of(photographs(KNOWN, seed=epoch, train=True, each=each))
            for batch in torch.randperm(len(labels)).split(100):
                optimizer.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Return the share of right guesses for photographs of clothes that were not trained on."""
    images, labels = batch_of(photographs(KNOWN, seed=EPOCHS, train=False, each=100))
    return float((model(images).argmax(dim=1) == labels).float().mean())


def write(model: nn.Module, folder: Path) -> Path:
    """Save the weights in a file that is named after its SHA-256, as torchvision's are."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path = folder / f"clothes-{digest[:8]}.pth"
    path.write_bytes(buffer.getvalue())
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the weights")
    arguments, trained = parser.parse_args(), train()
    print(f"{write(trained, arguments.folder)}: {accuracy(trained):.1%} are right")
