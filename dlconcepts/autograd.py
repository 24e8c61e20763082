"""Lesson 3, autograd: the history of a tensor, its gradients, and the chain rule by hand."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node

LossFunction = Callable[[Tensor, Tensor], Tensor]


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of a scalar function at x, in the shape of x, by autograd.

    x is a floating-point tensor of any shape, and is left alone. A function that does not depend
    on it has the gradient zero.

    Raises RuntimeError if the function returns more or less than one element.
    Source: PyTorch documentation, "A Gentle Introduction to torch.autograd".

    >>> gradient(lambda x: x.square().mean(), torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.requires_grad:
        result.backward()
    return torch.zeros_like(x) if leaf.grad is None else leaf.grad


def central_differences(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Return the gradient of a scalar function at x by two values a coordinate, in float64.

    The error falls with the square of `step`, until rounding, which grows as it shrinks.
    Source: Baydin et al., "Automatic Differentiation in Machine Learning: a Survey", section 2.

    >>> central_differences(lambda x: x.prod(), torch.tensor([2.0, 3.0])).round(decimals=6)
    tensor([3., 2.], dtype=torch.float64)
    """
    x = x.detach().double()
    n = x.numel()
    steps = step * torch.eye(n, dtype=x.dtype, device=x.device).view(n, *x.shape)
    slopes = [(function(x + h) - function(x - h)) / (2 * step) for h in steps]
    return torch.stack(slopes).view(x.shape) if slopes else torch.zeros_like(x)


def history(tensor: Tensor) -> list[Node]:
    """Return the operations that a tensor came from, each once and before those it used.

    The last nodes of each path are AccumulateGrad: their `variable` is a leaf. A tensor that is a
    leaf itself, or that nothing was recorded for, has no history.
    Source: PyTorch documentation, "Autograd mechanics", how autograd encodes the history.

    >>> x = torch.ones(2, requires_grad=True)
    >>> [operation(node) for node in history(x.exp().sum())]
    ['Sum', 'Exp', 'leaf']
    """
    finished: dict[Node, None] = {}
    path = [tensor.grad_fn] if tensor.grad_fn is not None else []
    while path:
        open_inputs = [node for node in inputs_of(path[-1]) if node not in finished]
        if open_inputs:
            path += open_inputs
        else:
            finished[path.pop()] = None
    return list(reversed(finished))


def inputs_of(node: Node) -> list[Node]:
    """Return the nodes from which an operation took its inputs, those that need no gradient out."""
    return [source for source, _ in node.next_functions if source is not None]


def leaves(tensor: Tensor) -> list[Tensor]:
    """Return the leaves to which backward would bring gradients, each once.

    >>> x = torch.ones(2, requires_grad=True)
    >>> leaves(x * x)[0] is x
    True
    """
    return [node.variable for node in history(tensor) if hasattr(node, "variable")]


def draw_history(tensor: Tensor) -> str:
    """Return the history as text, a line an operation: its number, name and inputs' numbers.

    >>> x = torch.ones(2, requires_grad=True)
    >>> print(draw_history((x.exp() * x).sum()))
    1  Sum          of 2
    2  Mul          of 3, 4
    3  Exp          of 4
    4  leaf         of shape (2,)
    """
    nodes = history(tensor)
    number = {node: position for position, node in enumerate(nodes, start=1)}
    width = len(str(len(nodes)))
    return "\n".join(
        f"{number[node]:{width}}  {operation(node):12} of "
        + (", ".join(str(number[source]) for source in inputs_of(node)) or shape_of(node))
        for node in nodes
    )


def operation(node: Node) -> str:
    """Return the name of an operation without what all such names have in common."""
    return "leaf" if hasattr(node, "variable") else node.name().split("Backward")[0]


def shape_of(leaf: Any) -> str:
    """Return the shape of the variable of a leaf's node as text."""
    return f"shape {tuple(leaf.variable.shape)}"


def chain_rule(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Return the Jacobian of functions applied one after the other: the product of theirs.

    x has shape (n,), the result of the last function (m,); the Jacobian is (m, n).
    Source: Baydin et al., "Automatic Differentiation in Machine Learning: a Survey", section 3.

    >>> chain_rule([torch.square, lambda x: x.sum(0, keepdim=True)], torch.tensor([1.0, 3.0]))
    tensor([[2., 6.]])
    """
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for function in functions:
        # Each Jacobian is taken where the path has come to, and acts on what came before it.
        product = torch.func.jacrev(function)(x) @ product
        x = function(x)
    return product.detach()


def sum_over_paths(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Return the gradient of a scalar function that uses one weight several times.

    `function` takes the weight once for each use; each use is a path of its own from the loss to
    the weight, and the gradients along the paths add.

    >>> sum_over_paths(lambda first, second: first * second, torch.tensor(3.0), uses=2)
    tensor(6.)
    """
    copies = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    along_each_path = torch.autograd.grad(function(*copies), copies)
    return torch.stack(along_each_path).sum(0)


def accumulate(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Add to the gradients those of the mean loss of all examples, one micro-batch at a time.

    `loss_fn` returns the mean of a batch; each counts by its share of the examples. The result is
    that of the whole batch for models that treat each example alone: batch normalisation does not.
    Source: PyTorch documentation, "Automatic Mixed Precision examples", gradient accumulation.

    >>> model = nn.Linear(1, 1)
    >>> halves = [(torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(1, 1), torch.zeros(1, 1))]
    >>> accumulate(model, nn.MSELoss(), halves)
    >>> model.weight.grad.shape
    torch.Size([1, 1])
    """
    micro_batches = list(micro_batches)
    examples = sum(len(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        loss = loss_fn(model(inputs), labels) * (len(labels) / examples)
        loss.backward()


class ByHand(nn.Module):
    """A chain of Linear layers with ReLU between them as one operation, differentiated by hand.

    `model` is a Sequential of Linear layers with one ReLU between each two, perhaps a Flatten in
    front. All its parameters become views of one flat parameter, so the model learns what this
    module learns; build it after the model is on its device. Autograd then has one node to visit
    and the optimizer one tensor to update. Whether that is faster depends on the processor:
    benchmarks/training.py tells.

    Raises ValueError for any other chain of layers, and for a layer that is there twice.
    Source: the chain rule, as in Rumelhart, Hinton and Williams, "Learning representations by
    back-propagating errors", 1986.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> by_hand = ByHand(model)
    >>> by_hand(torch.ones(5, 2)).allclose(model(torch.ones(5, 2)))
    True
    """

    def __init__(self, model: nn.Sequential) -> None:
        """Move the parameters of the model into one flat tensor, of which they become views."""
        super().__init__()
        linears = chain_of(model)
        parameters = [part for layer in linears for part in (layer.weight, layer.bias)]
        self.shapes = [part.shape for part in parameters]
        self.flat = nn.Parameter(torch.cat([part.detach().flatten() for part in parameters]))
        for part, view in zip(parameters, views(self.flat.detach(), self.shapes), strict=True):
            part.data = view

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of a batch, (B, ...) to (B, out_features)."""
        logits: Tensor = _Chain.apply(inputs.flatten(1), self.flat, self.shapes)
        return logits


class _Chain(torch.autograd.Function):
    """The whole chain of layers as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, flat: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
        """Compute the logits, and keep what each layer took in."""
        parameters, taken = views(flat, shapes), [inputs]
        ctx.weights, ctx.shapes = parameters[::2], shapes
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            taken.append(F.linear(taken[-1], weight, bias).relu_())
        ctx.save_for_backward(flat, *taken)
        return F.linear(taken[-1], *parameters[-2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Go back through the layers, multiplying by the Jacobian of each."""
        (delta,) = deltas
        flat, *taken = ctx.saved_tensors
        gradient = torch.empty_like(flat)
        slots = views(gradient, ctx.shapes)
        for layer in reversed(range(len(taken))):
            torch.mm(delta.t(), taken[layer], out=slots[2 * layer])
            torch.sum(delta, 0, out=slots[2 * layer + 1])
            if layer:
                # The slope of ReLU is one where something came out of it, else zero: the operator
                # with which autograd goes back through ReLU is four times as fast as a mask.
                delta = delta @ ctx.weights[layer]
                delta = torch.ops.aten.threshold_backward(delta, taken[layer], 0)
        return delta @ ctx.weights[0] if ctx.needs_input_grad[0] else None, gradient, None


def chain_of(model: nn.Sequential) -> list[nn.Linear]:
    """Return the Linear layers of a chain with one ReLU between each two, or raise ValueError."""
    layers = list(model)[1:] if isinstance(next(iter(model), None), nn.Flatten) else list(model)
    linears = [layer for layer in layers[::2] if type(layer) is nn.Linear]
    relus = [layer for layer in layers[1::2] if type(layer) is nn.ReLU]
    alternate = len(layers) == len(linears) + len(relus) and len(linears) == len(relus) + 1
    if not alternate or len(set(linears)) < len(linears):
        raise ValueError(f"not Linear layers, each once, with one ReLU between each two: {model}")
    if any(layer.bias is None or not layer.weight.requires_grad for layer in linears):
        raise ValueError(f"each Linear layer needs a bias and a weight that can learn: {model}")
    return linears


def views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return views of these shapes that lie one after the other in a flat tensor."""
    sizes = [shape.numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
