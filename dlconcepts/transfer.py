"""Lesson 8, transfer learning: a pretrained network's features, frozen, under a head of one's own.

The head is what turns features into classes, and has another name in each family: `find_head` finds
it, `replace_head` puts a new one in its place, `freeze` keeps all the rest as it is. What is frozen
gives the same features in every epoch, so that `extract_features` needs to compute them but once.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision import models

from dlconcepts.support.bitwise import same
from dlconcepts.support.runs import find_model_device
from dlconcepts.validation import inference

# Their weights are drawn so slowly that torchvision asks to say whether that is wanted.
UNTRAINED = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


class Head(NamedTuple):
    """Where a model's head is, by its dotted name, and how many features it takes."""

    name: str
    in_features: int


def find_head(model: nn.Module) -> Head:
    """Find the layer of a classifier that turns features into one score for each class.

    It is the last layer that has parameters, in the order in which the model's own `__init__` adds
    them: a Linear in torchvision's classifiers, and the whole `classifier` in a SqueezeNet. A model
    that does not run its layers in the order in which it adds them needs its head named.

    Raises ValueError if that layer is no Linear, or if layers are quantized, which no optimizer can
    train: take the model of the same name that is not.
    Source: torchvision documentation, "Models and pre-trained weights: Classification".

    >>> find_head(models.resnet18())
    Head(name='fc', in_features=512)
    """
    if any("quantized" in type(layer).__module__.split(".") for layer in model.modules()):
        raise ValueError("the model is quantized: take the one of its name that is not")
    layers = [named for named in model.named_modules() if has_parameters(named[1])]
    name, last = layers[-1] if layers else ("", model)
    if isinstance(model, models.SqueezeNet) and isinstance(last, nn.Conv2d):
        # It scores every place of the image, and averages the scores that are above zero.
        return Head("classifier", last.in_channels)
    if not name or not isinstance(last, nn.Linear):
        raise ValueError(
            "the model has no head that can be found: its last layer with parameters is "
            f"{name or 'the model itself'}, {type(last).__name__}, not a Linear inside it"
        )
    return Head(name, last.in_features)


def replace_head(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Put a new head in the place of the one that `find_head` finds, or of the one of that name.

    The head takes features of shape (B, in_features); the model then returns what the head does,
    in train mode too: the auxiliary classifiers of GoogLeNet and Inception, which answer with the
    old classes, are dropped. Build the optimizer afterwards: one built before holds the old head.

    Raises ValueError if the model has no module of that name, which PyTorch would add without ever
    running it, or if the head's first Linear takes another number of features.
    Source: PyTorch documentation, `torch.nn.Module.set_submodule`.

    >>> model = models.resnet18()
    >>> replace_head(model, nn.Linear(512, 2))
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 2])
    """
    if name is None:
        name, in_features = find_head(model)
        first = next((layer for layer in head.modules() if isinstance(layer, nn.Linear)), None)
        if first is not None and first.in_features != in_features:
            raise ValueError(
                f"the head takes {first.in_features} features, but {name} of "
                f"{type(model).__name__} gets {in_features}"
            )
        if isinstance(model, models.SqueezeNet) and name == "classifier":
            head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    elif name not in dict(model.named_modules()) or not name:
        children = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no module {name!r}; it has {children}")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, head)
    if isinstance(model, (models.GoogLeNet, models.Inception3)):
        model.aux_logits = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, auxiliary):
                setattr(model, auxiliary, None)


def has_parameters(layer: nn.Module) -> bool:
    """Return whether a layer has parameters of its own, not only those of layers inside it."""
    return next(layer.parameters(recurse=False), None) is not None


def new_head(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Return a classifier of features: Linear layers with ReLU between them.

    Input: floating point (B, in_features). Output: logits (B, out_features), for
    `nn.CrossEntropyLoss`, or with `log_probabilities` their log-softmax, for `nn.NLLLoss`.

    Raises ValueError for a size below 1.
    Source: PyTorch documentation, `torch.nn.CrossEntropyLoss` and `torch.nn.NLLLoss`.

    >>> new_head(512, [256], 3)
    Sequential(
      (0): Linear(in_features=512, out_features=256, bias=True)
      (1): ReLU()
      (2): Linear(in_features=256, out_features=3, bias=True)
    )
    """
    sizes = [in_features, *hidden_features, out_features]
    if min(sizes) < 1:
        raise ValueError(f"sizes are whole numbers of at least 1, but these are {sizes}")
    layers: list[nn.Module] = []
    for size, next_size in pairwise(sizes):
        layers += [nn.Linear(size, next_size), nn.ReLU()]
    return nn.Sequential(*layers[:-1], *[nn.LogSoftmax(dim=1)] * log_probabilities)


def freeze(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Keep all of a model but its head as it is, whatever trains it: parameters and buffers.

    Exactly the head's parameters require grad afterwards. Gradients that the others have from
    before are dropped: an optimizer would still step by them, and by momentum and weight decay.
    Before each forward pass the frozen part goes into eval mode, also when `model.train()` was
    called: else the running statistics of BatchNorm move, and dropout makes the features random.
    Give an optimizer the head's parameters only: LBFGS moves any it holds by what it remembers.

    To train a frozen layer after all, set its `requires_grad`; `remove()` what is returned, and
    `model.train()` reaches every layer again.

    Raises ValueError if the head is not a module of the model.
    Source: PyTorch documentation, "Autograd mechanics": requires_grad and eval mode are separate.

    >>> model = models.resnet18()
    >>> handle = freeze(model, model.fc)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['fc.weight', 'fc.bias']
    """
    names = [name for name, module in model.named_modules() if module is head]
    if not names:
        raise ValueError("the head is not a module of the model: replace_head() first")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    head.requires_grad_(True)
    # By name, so that a copy of the model, or another head in that place, is treated alike.
    hook = partial(put_frozen_in_eval, names[0])
    hook(model)
    return model.register_forward_pre_hook(hook)


def put_frozen_in_eval(head: str, model: nn.Module, *inputs: Any) -> None:
    """Put each module outside the head of that name that has nothing to train into eval mode."""
    for name, module in model.named_modules():
        if f"{name}.".startswith(f"{head}."):
            continue
        if not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            module.training = False


def extract_features(
    model: nn.Module, head: nn.Module, data: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return what the head gets for each image, (N, ...), and the labels, (N,), on the CPU.

    `data` are batches of images and labels, as `loading.batches` or a DataLoader gives them,
    without augmentation. The model is in eval mode meanwhile and comes back as it was. A head that
    is trained on the features, `fit(head, features)`, is the one that training it in the frozen
    model gives, within rounding.

    Raises ValueError if there are no batches, or if the head is not what the model's output comes
    from.
    Source: PyTorch documentation, `torch.nn.Module.register_forward_hook`.

    >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 3))
    >>> data = torch.tensor([[-1.0, 1.0]]), torch.tensor([2])
    >>> extract_features(model, model[1], [data])
    (tensor([[0., 1.]]), tensor([2]))
    """
    inputs: list[Tensor] = []
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    device = find_model_device(model)
    with (
        # A copy, since a head may begin with an operation that works in place.
        head.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone())),
        head.register_forward_hook(lambda _, args, output: scores.append(output)),
        inference(model),
    ):
        features: list[Tensor] = []
        for images, batch_labels in data:
            output = model(images.to(device))
            if len(scores) != 1 or not same(scores[0].flatten(1), output):
                raise ValueError("the model's output is not its head's: replace_head() first")
            features.append(inputs.pop().cpu())
            labels.append(batch_labels.cpu())
            scores.clear()
    if not features:
        raise ValueError("there are no images")
    return torch.cat(features), torch.cat(labels)


class TransferNetwork(nn.Module):
    """A classifier of torchvision, frozen but for a new head: from images to logits.

    `name` is torchvision's; `classifier` is the pretrained one of that name, which becomes part of
    the network, or None for an untrained one. `hidden_features` and `out_features` are the head's.

    Input: floating point (B, 3, H, W). Output: logits (B, out_features).

    Raises ValueError for an unknown name, a classifier without a head, or a size below 1.
    Source: torchvision documentation, "Models and pre-trained weights: Classification".

    >>> model = TransferNetwork("resnet18", [64], 3).train()
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 3])
    >>> model.classifier.bn1.num_batches_tracked.item(), model.head.training
    (0, True)
    """

    def __init__(
        self,
        name: str,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        classifier: nn.Module | None = None,
    ) -> None:
        """Replace the classifier's head by a new one, and freeze the rest."""
        super().__init__()
        self.name, self.out_features = name, out_features
        self.hidden_features = list(hidden_features)
        self.classifier = classifier or untrained(name)
        head = new_head(find_head(self.classifier).in_features, hidden_features, out_features)
        replace_head(self.classifier, head)
        freeze(self.classifier, head)
        self._head = next(n for n, module in self.classifier.named_modules() if module is head)

    @property
    def head(self) -> nn.Module:
        """The head, which alone is trained."""
        return self.classifier.get_submodule(self._head)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of a batch."""
        logits: Tensor = self.classifier(images)
        return logits

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments that build a network like this one, as plain Python values.

        >>> TransferNetwork("alexnet", [], 3).architecture
        {'name': 'alexnet', 'hidden_features': [], 'out_features': 3}
        """
        return {
            "name": self.name,
            "hidden_features": list(self.hidden_features),
            "out_features": self.out_features,
        }


def untrained(name: str) -> nn.Module:
    """Return the classifier of torchvision of that name, with random weights.

    Raises ValueError if torchvision has no such classifier.
    """
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}; see torchvision.models")
    model: nn.Module = models.get_model(name, weights=None, **UNTRAINED.get(name, {}))
    return model
