"""Lesson 8, transfer learning: the frozen features of a pretrained network, under a new head.

The head turns features into scores, and has another name in each family: `find_head` finds it,
`replace_head` replaces it, `freeze` keeps everything else fixed. Frozen layers give the same
features in every epoch, so `extract_features` computes them only once.
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
from dlconcepts.support.errors import nearest
from dlconcepts.support.runs import find_model_device
from dlconcepts.validation import inference

# Drawing their weights is slow, so torchvision warns unless one says whether to do it.
UNTRAINED = {"googlenet": {"init_weights": False}, "inception_v3": {"init_weights": False}}


class Head(NamedTuple):
    """The dotted name of a model's head, and how many features it takes."""

    name: str
    in_features: int


def find_head(model: nn.Module) -> Head:
    """Find the layer of a classifier that turns features into one score per class.

    It is the last layer with parameters, in the order in which the model's `__init__` adds them: a
    Linear in torchvision's classifiers, and the whole `classifier` in a SqueezeNet. If a model runs
    its layers in another order, pass the name of its head to `replace_head` instead.

    Raises ValueError if that layer is not a Linear, if there is none, or if layers are quantized,
    of a class in a module `...quantized...`, since no optimizer can train those.
    Source: torchvision documentation, "Models and pre-trained weights: Classification".

    >>> find_head(models.resnet18())
    Head(name='fc', in_features=512)
    """
    if any("quantized" in type(layer).__module__.split(".") for layer in model.modules()):
        raise ValueError("the model is quantized: use the same model without quantization")
    layers = [named for named in model.named_modules() if has_parameters(named[1])]
    name, last = layers[-1] if layers else ("", model)
    if isinstance(model, models.SqueezeNet) and isinstance(last, nn.Conv2d):
        # Its last layer scores each position of the image, and the ReLU after it would clip logits.
        return Head("classifier", last.in_channels)
    if not name or not isinstance(last, nn.Linear):
        raise ValueError(
            f"no head found: the last layer with parameters is {name or 'the model itself'}, a "
            f"{type(last).__name__}, not a Linear in the model; name the head in replace_head()"
        )
    return Head(name, last.in_features)


def replace_head(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Replace the head that `find_head` finds, or the module of that name, with a new head.

    The head takes features of shape (B, in_features), which in a SqueezeNet are means over the
    positions, and the model returns the head's output, in train mode too: this removes the
    auxiliary classifiers (`aux1`, `aux2`, `AuxLogits`) of GoogLeNet and Inception, which score the
    old classes. Build the optimizer afterwards: one built earlier holds the old head.

    Raises ValueError if the model has no module of that name (PyTorch would add one and never run
    it), or without a name if the head's first Linear takes not `find_head`'s number of features.
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
                f"{type(model).__name__} gets {in_features}; build it with that many"
            )
        if isinstance(model, models.SqueezeNet) and name == "classifier":
            head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    elif name not in dict(model.named_modules()) or not name:
        children = ", ".join(child for child, _ in model.named_children())
        raise ValueError(f"{type(model).__name__} has no module {name!r}; choose from {children}")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, head)
    if isinstance(model, (models.GoogLeNet, models.Inception3)):
        model.aux_logits = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, auxiliary):
                setattr(model, auxiliary, None)


def has_parameters(layer: nn.Module) -> bool:
    """Return whether a layer itself has parameters, not only the layers inside it."""
    return next(layer.parameters(recurse=False), None) is not None


def new_head(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Return a classifier of features: Linear layers with ReLU between them.

    Input: floating point (B, in_features). Output: logits (B, out_features) for
    `nn.CrossEntropyLoss`, or with `log_probabilities` their log-softmax for `nn.NLLLoss`.

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
        raise ValueError(f"sizes must be integers of at least 1, but these are {sizes}")
    layers: list[nn.Module] = []
    for size, next_size in pairwise(sizes):
        layers += [nn.Linear(size, next_size), nn.ReLU()]
    return nn.Sequential(*layers[:-1], *[nn.LogSoftmax(dim=1)] * log_probabilities)


def freeze(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Keep all parameters and buffers of a model fixed in training, except those of its head.

    Afterwards exactly the head's parameters require grad. The other gradients become None: with a
    gradient, even zero, an optimizer would still apply its momentum and weight decay.
    Before each forward pass every module outside the head goes into eval mode, the model itself
    too, even after `model.train()`: in train mode BatchNorm's running statistics move, and dropout
    makes the features random.
    Give the optimizer only the head's parameters: LBFGS can move any that it holds.

    To train a frozen layer after all, set its `requires_grad`. To let `model.train()` reach every
    layer again, call `remove()` on the returned handle.

    Raises ValueError if the head is not a module of the model.
    Source: PyTorch documentation, "Autograd mechanics": requires_grad and eval mode are separate.

    >>> model = models.resnet18()
    >>> handle = freeze(model, model.fc)
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['fc.weight', 'fc.bias']
    """
    names = [name for name, module in model.named_modules() if module is head]
    if not names:
        raise ValueError("the head is not a module of the model: call replace_head() first")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    head.requires_grad_(True)
    # By name, so that it also works in a copy of the model, and after another replace_head().
    hook = partial(put_frozen_in_eval, names[0])
    hook(model)
    return model.register_forward_pre_hook(hook)


def put_frozen_in_eval(head: str, model: nn.Module, *inputs: Any) -> None:
    """Put each module outside the head that has no parameters to train into eval mode."""
    prefix = f"{head}." if head else ""  # the model itself may be the head
    for name, module in model.named_modules():
        if f"{name}.".startswith(prefix):
            continue
        if not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            module.training = False


def extract_features(
    model: nn.Module, head: nn.Module, data: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the head's input for each image, (N, ...), and the labels, (N,), on the CPU.

    `data` are batches of images and labels, from `loading.batches` or a DataLoader, without
    augmentation. The model runs in eval mode without gradients; then its modes are restored, and no
    hook is left. The head may change its input in place: the result is a copy. Training a
    head on the features, `fit(head, features)`, gives the same head as training it in the frozen
    model, within rounding.

    Raises ValueError if there are no batches, or if the model's output does not come from the head.
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
        # A copy, since the head may start with an in-place operation.
        head.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone())),
        head.register_forward_hook(lambda _, args, output: scores.append(output)),
        inference(model),
    ):
        features: list[Tensor] = []
        for images, batch_labels in data:
            output = model(images.to(device))
            if len(scores) != 1 or not same(scores[0].flatten(1), output):
                raise ValueError("the model's output is not its head's: call replace_head() first")
            features.append(inputs.pop().cpu())
            labels.append(batch_labels.cpu())
            scores.clear()
    if not features:
        raise ValueError("there are no images: pass at least one batch")
    return torch.cat(features), torch.cat(labels)


class TransferNetwork(nn.Module):
    """A classifier of torchvision with a new head, and everything else frozen.

    `name` is torchvision's. `classifier` is a pretrained model of that name, which the network then
    contains, or None for random weights. `hidden_features` and `out_features` are the head's.

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
        """Replace the classifier's head, and freeze the rest."""
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
        """The head, the only part that is trained."""
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
    """Return torchvision's classifier of that name, a new one with random weights in each call.

    Raises ValueError if torchvision lists no such classifier.
    """
    if name not in models.list_models(module=models):
        near = nearest(name, models.list_models(module=models), "see torchvision.models")
        raise ValueError(f"torchvision has no classifier {name!r}{near}")
    model: nn.Module = models.get_model(name, weights=None, **UNTRAINED.get(name, {}))
    return model
