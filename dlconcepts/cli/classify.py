"""`python -m dlconcepts classify`: print and draw the class probabilities of image files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from dlconcepts import checkpoints
from dlconcepts.cli import output
from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.support.atomic import making, write_json
from dlconcepts.support.datasets import read_image
from dlconcepts.support.errors import UserError, writing
from dlconcepts.support.plots import view_classify
from dlconcepts.validation import predict


def run(arguments: argparse.Namespace) -> int:
    """Print and draw the class probabilities of image files, and return 0."""
    output.check_folder(arguments.out)
    # Images from different folders may have the same name; the number tells them apart.
    drawings = [
        arguments.out / f"{n}-{path.stem}.png" for n, path in enumerate(arguments.images, 1)
    ]
    if not arguments.force and (there := [str(path) for path in drawings if path.exists()]):
        raise UserError(
            f"{', '.join(there)} already there; replace with --force, or choose another folder "
            "with --out"
        )
    checkpoint = checkpoints.load(arguments.checkpoint)
    with output.using(arguments.checkpoint):
        images, inputs = read_inputs(arguments, checkpoint)
        probabilities = predict(checkpoint.model, inputs)
    if not bool(probabilities.isfinite().all()):
        raise UserError(
            f"the network in {arguments.checkpoint} returns NaN, since its training diverged; "
            "train again with a lower learning rate"
        )
    found = []
    with making(arguments.out):
        for image, path, row, drawing in zip(
            images, arguments.images, probabilities, drawings, strict=True
        ):
            print(table(path, row.tolist(), checkpoint.classes))
            with writing(arguments.out):
                output.write_figure(drawing, view_classify(image, row, checkpoint.classes))
            print(f"wrote {drawing}")
            best = checkpoint.classes[int(row.argmax())]
            texts = {"file": str(path), "class": best, "drawing": str(drawing)}
            shares = dict(zip(checkpoint.classes, row.tolist(), strict=True))
            found.append({**texts, "probabilities": shares})
    write_json(arguments.json, {"schema": 1, "images": found})
    return 0


def read_inputs(
    arguments: argparse.Namespace, checkpoint: checkpoints.Checkpoint
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images as uint8, grey or in colour, and as inputs of the network."""
    if not isinstance(checkpoint.model, Network):
        # Imported here, since torchvision takes as long to import as torch itself.
        from dlconcepts.images import eval_pipeline, read_rgb

        photographs = [read_rgb(path) for path in arguments.images]
        statistics = checkpoint.normalization
        inputs = torch.stack([eval_pipeline(**statistics)(image) for image in photographs])
        return output.denormalize(inputs, statistics["mean"], statistics["std"]), inputs
    if checkpoint.model.in_features != 28 * 28:
        raise UserError(
            f"the network in {arguments.checkpoint} takes {checkpoint.model.in_features} values, "
            "not 28 x 28 = 784; use a checkpoint trained on Fashion-MNIST"
        )
    images = torch.stack([read_image(path) for path in arguments.images])
    return images, normalize(images, **checkpoint.normalization)


def table(path: Path, probabilities: Sequence[float], classes: Sequence[str]) -> str:
    """Return an image's class probabilities as text, a line for each class.

    >>> print(table(Path("pet.png"), [0.25, 0.75], ["cat", "dog"]))
    pet.png: dog
      cat   25.0%  #####
      dog   75.0%  ###############
    """
    width = max(map(len, classes))
    rows = [
        f"  {name:{width}}  {probability:6.1%}  {'#' * round(20 * probability)}".rstrip()
        for name, probability in zip(classes, probabilities, strict=True)
    ]
    predicted = classes[probabilities.index(max(probabilities))]
    return "\n".join([f"{path}: {predicted}", *rows])
