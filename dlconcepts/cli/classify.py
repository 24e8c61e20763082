"""`python -m dlconcepts classify`: print and draw the class probabilities of image files."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from dlconcepts import checkpoints
from dlconcepts.cli import output
from dlconcepts.loading import normalize
from dlconcepts.networks import Network
from dlconcepts.support.atomic import making, write_json
from dlconcepts.support.datasets import read_image
from dlconcepts.support.errors import UserError, writing
from dlconcepts.support.plots import view_classify
from dlconcepts.support.runs import progress_bar
from dlconcepts.validation import predict

Reader = Callable[[Path], tuple[torch.Tensor, torch.Tensor]]
BATCH_SIZE = 32


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
        read = make_reader(arguments.checkpoint, checkpoint)
        probabilities = predict_files(checkpoint.model, arguments.images, read)
    if not bool(probabilities.isfinite().all()):
        raise UserError(
            f"the network in {arguments.checkpoint} returns NaN, since its training diverged; "
            "train again with a lower learning rate"
        )
    found = []
    with making(arguments.out):
        for path, row, drawing in zip(arguments.images, probabilities, drawings, strict=True):
            image, _ = read(path)
            names = [output.printable(name) for name in checkpoint.classes]
            print(table(path, row.tolist(), names))
            with writing(arguments.out):
                output.write_figure(drawing, view_classify(image, row, checkpoint.classes))
            print(f"wrote {drawing}")
            best = checkpoint.classes[int(row.argmax())]
            texts = {"file": str(path), "class": best, "drawing": str(drawing)}
            shares = dict(zip(checkpoint.classes, row.tolist(), strict=True))
            found.append({**texts, "probabilities": shares})
    write_json(arguments.json, {"schema": 1, "images": found})
    return 0


def make_reader(path: Path, checkpoint: checkpoints.Checkpoint) -> Reader:
    """Return a function that reads a file as uint8, grey or in colour, and as the network's input.

    `path` is the file of the checkpoint.
    """
    statistics = checkpoint.normalization
    if not isinstance(checkpoint.model, Network):
        # Imported here, since torchvision takes as long to import as torch itself.
        from dlconcepts.images import eval_pipeline, read_rgb

        pipeline = eval_pipeline(**statistics)

        def read_photograph(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
            inputs = pipeline(read_rgb(path))
            shown = output.denormalize(inputs[None], statistics["mean"], statistics["std"])
            return shown[0], inputs

        return read_photograph
    if checkpoint.model.in_features != 28 * 28:
        raise UserError(
            f"the network in {path} takes {checkpoint.model.in_features} values, "
            "not 28 x 28 = 784; use a checkpoint trained on Fashion-MNIST"
        )

    def read_grey(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        image = read_image(path)
        return image, normalize(image[None], **statistics)[0]

    return read_grey


def predict_files(model: nn.Module, paths: Sequence[Path], read: Reader) -> torch.Tensor:
    """Return the class probabilities of image files, (N, K); show a progress bar on a terminal."""
    found = []
    with progress_bar(len(paths), True) as advance:
        # The inputs of 100,000 photographs at once take 60 GB.
        for start in range(0, len(paths), BATCH_SIZE):
            inputs = []
            for path in paths[start : start + BATCH_SIZE]:
                inputs.append(read(path)[1])
                if advance:
                    advance("images")
            found.append(predict(model, torch.stack(inputs)))
    return torch.cat(found)


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
