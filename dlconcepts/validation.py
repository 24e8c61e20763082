"""Validation: how well a model does on examples that it was not trained on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from dlconcepts.loading import batches

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of the examples, and the share of them, in [0, 1], predicted rightly."""

    loss: float
    accuracy: float


def evaluate(
    model: nn.Module,
    data: tuple[torch.Tensor, torch.Tensor],
    *,
    loss_fn: LossFunction | None = None,
    batch_size: int = 1000,
) -> Evaluation:
    """Measure the loss and the accuracy of a model, each example counting once.

    Images of shape (N, ...), uint8 or floating point, and labels of shape (N,), int64. `loss_fn`
    takes logits and labels and returns the mean of a batch, cross-entropy by default. How the
    examples are cut into batches does not matter. Dropout and the like are off meanwhile; the
    model comes back as it was, also when something raises.

    Raises ValueError as `dlconcepts.loading.batches` does, for one.
    Source: PyTorch documentation, "Optimizing Model Parameters".

    >>> data = torch.tensor([[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]]), torch.tensor([1, 0, 1])
    >>> round(evaluate(nn.Identity(), data, batch_size=2).accuracy, 3)
    0.667
    """
    loss_fn = loss_fn or F.cross_entropy
    total_loss, correct, device = 0.0, 0, find_model_device(model)
    with inference(model):
        for images, labels in batches(data, batch_size, device=device):
            logits = model(images)
            # The last batch may be smaller: a mean of batch means would count its examples more.
            total_loss += loss_fn(logits, labels).item() * len(labels)
            correct += int((logits.argmax(dim=1) == labels).sum().item())
    return Evaluation(total_loss / len(data[1]), correct / len(data[1]))


def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the class probabilities of a batch of normalised images, on the CPU.

    Input: floating point of shape (N, ...). Output: shape (N, K); each row sums to 1. The model
    returns logits and comes back as it was.
    Source: PyTorch documentation, "Save, Load and Use Model" and `torch.softmax`.

    >>> predict(nn.Identity(), torch.tensor([[1.0, 1.0]]))
    tensor([[0.5000, 0.5000]])
    """
    with inference(model):
        logits: torch.Tensor = model(images.to(find_model_device(model)))
        return logits.softmax(dim=1).cpu()


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into eval mode without gradients, and each of its modules back as it was.

    Source: PyTorch documentation, "Autograd mechanics": eval mode and inference mode are separate.

    >>> model = nn.Dropout()
    >>> with inference(model):
    ...     model(torch.ones(3))
    tensor([1., 1., 1.])
    >>> model.training
    True
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.inference_mode():
            yield model.eval()
    finally:
        for module, training in modes.items():
            module.training = training


def find_model_device(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters, the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
