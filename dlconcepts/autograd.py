"""Lesson 3, autograd: a tensor's history, its gradients, and the chain rule by hand."""

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import Node

LossFunction = Callable[[Tensor, Tensor], Tensor]


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of a scalar function at x, in the shape of x, by autograd.

    x is floating-point and stays unchanged, as does the `.grad` of every leaf; the gradient is zero
    if the function ignores x. It is computed under `no_grad` too.

    Raises RuntimeError if the function does not return exactly one element.
    Source: PyTorch documentation, "A Gentle Introduction to torch.autograd".

    >>> gradient(lambda x: x.square().mean(), torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        result = function(leaf)
    if result.numel() != 1:
        raise RuntimeError(f"the function must return one element, but returned {result}")
    if not result.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(result, leaf, materialize_grads=True)[0]


def central_differences(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Return the gradient of a scalar function at x from two values per coordinate, in float64.

    The gradient has the shape of x. The function gets float64 tensors; x itself stays as it was.
    A smaller `step` lowers the error, which falls with its square, but magnifies rounding.
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
    """Return the operations that made a tensor, each once and before the ones it used.

    Each path ends in an AccumulateGrad node, whose `variable` is a leaf. The history is empty if
    the tensor is a leaf itself, or if autograd did not track it. It may be longer than Python's
    recursion limit.
    Source: PyTorch documentation, "Autograd mechanics", how autograd encodes the history.

    >>> x = torch.ones(2, requires_grad=True)
    >>> [operation(node) for node in history(x.exp().sum())]
    ['Sum', 'Exp', 'leaf']
    """
    # An explicit stack: recursion would fail on a history of a thousand operations.
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
    """Return the nodes that made an operation's inputs; untracked inputs have none."""
    return [source for source, _ in node.next_functions if source is not None]


def leaves(tensor: Tensor) -> list[Tensor]:
    """Return the leaves whose gradients backward would compute, each once.

    >>> x = torch.ones(2, requires_grad=True)
    >>> leaves(x * x)[0] is x
    True
    """
    return [node.variable for node in history(tensor) if hasattr(node, "variable")]


def draw_history(tensor: Tensor) -> str:
    """Return the history as text, one line per operation: number, name and inputs' numbers.

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
    """Return an operation's name without `Backward0`, or `leaf`."""
    return "leaf" if hasattr(node, "variable") else node.name().split("Backward")[0]


def shape_of(leaf: Any) -> str:
    """Return the shape of a leaf's variable as text."""
    return f"shape {tuple(leaf.variable.shape)}"


def chain_rule(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Return the Jacobian of functions applied one after the other: the product of Jacobians.

    x has shape (n,), the result of the last function (m,); the Jacobian is (m, n). Without a
    function it is the identity.
    Source: Baydin et al., "Automatic Differentiation in Machine Learning: a Survey", section 3.

    >>> chain_rule([torch.square, lambda x: x.sum(0, keepdim=True)], torch.tensor([1.0, 3.0]))
    tensor([[2., 6.]])
    """
    product = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for function in functions:
        # The Jacobian at this function's input; later functions multiply from the left.
        product = torch.func.jacrev(function)(x) @ product
        x = function(x)
    return product.detach()


def sum_over_paths(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Return the gradient of a scalar function that uses one weight several times.

    `function` takes the weight once for each use. Each use is a path from the loss to the weight,
    and the gradients along the paths add; one that the function ignores adds zero. The weight and
    its `.grad` stay as they were.

    >>> sum_over_paths(lambda first, second: first * second, torch.tensor(3.0), uses=2)
    tensor(6.)
    """
    copies = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    along_each_path = torch.autograd.grad(function(*copies), copies, materialize_grads=True)
    return torch.stack(along_each_path).sum(0)


def accumulate(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Add the gradients of the mean loss over all examples, one micro-batch at a time.

    `loss_fn` returns a mean over a batch, as `as_sum` says, which is imported. The sum is the
    gradient of the whole batch, unless a layer mixes examples, as BatchNorm does. In a micro-batch
    there may be no label that counts, so that it has no mean; with label smoothing, labels of
    weight 0 still have a gradient. `micro_batches` can be a generator.

    Raises the errors of `as_sum` before any gradient changes.
    Source: PyTorch documentation, "Automatic Mixed Precision examples", gradient accumulation.

    >>> model = nn.Linear(1, 1)
    >>> halves = [(torch.ones(2, 1), torch.ones(2, 1)), (torch.ones(1, 1), torch.zeros(1, 1))]
    >>> accumulate(model, nn.MSELoss(), halves)
    >>> model.weight.grad.shape
    torch.Size([1, 1])
    """
    micro_batches = list(micro_batches)
    summed, divisor = as_sum(loss_fn)
    total = sum(divisor(labels) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        loss = summed(model(inputs), labels) / total
        loss.backward()


def as_sum(loss_fn: LossFunction) -> tuple[LossFunction, Callable[[Tensor], float]]:
    """Split a mean loss into a sum over examples and the divisor of the mean, from the labels.

    A loss with an `ignore_index`, as `F.cross_entropy`, `nn.NLLLoss`, or a functools.partial of
    them, divides by the sum of the weights of the labels that count. Any other loss, and a lambda
    that calls one of these, must be a mean in which all examples count alike.

    Raises ValueError if the reduction of the loss is "sum".
    Source: PyTorch documentation, `torch.nn.CrossEntropyLoss`.

    >>> summed, divisor = as_sum(nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0])))
    >>> divisor(torch.tensor([0, 1, 1]))
    7.0
    """
    if isinstance(loss_fn, nn.Module):
        known = vars(loss_fn) | dict(loss_fn.named_buffers())
    else:
        known = {k: p.default for k, p in inspect.signature(loss_fn).parameters.items()}
    if known.get("reduction") == "sum":
        raise ValueError(f"the loss must be a mean over the batch, but {loss_fn} returns a sum")
    if not {"reduction", "ignore_index"} <= known.keys():
        return lambda outputs, labels: loss_fn(outputs, labels) * len(labels), len
    summed: Any
    if isinstance(loss_fn, nn.Module):
        summed = copy.copy(loss_fn)
        summed.reduction = "sum"
    else:
        summed = partial(loss_fn, reduction="sum")  # type: ignore[call-arg]

    def divisor(labels: Tensor) -> float:
        if labels.is_floating_point():  # a probability for each class: every example counts 1
            return labels.numel() / labels.shape[1]
        counted = labels[labels != known["ignore_index"]]
        weight = known.get("weight")
        return counted.numel() if weight is None else weight[counted].sum().item()

    return summed, divisor


class ByHand(nn.Module):
    """A chain of Linear layers with ReLU between them as one operation, differentiated by hand.

    `model` is a Sequential of Linear layers with biases and one ReLU between each two, optionally
    after a Flatten. All its parameters become views of one flat parameter, the only one of this
    module, so the model learns what this module learns. The inputs get gradients too. Move the
    model to its device first. Autograd then visits one node and the optimizer updates one tensor;
    benchmarks/training.py measures whether that is faster.

    Raises ValueError for other layers, a Linear layer that occurs twice, or a frozen parameter.
    Source: the chain rule, as in Rumelhart, Hinton and Williams, "Learning representations by
    back-propagating errors", 1986.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> by_hand = ByHand(model)
    >>> by_hand(torch.ones(5, 2)).allclose(model(torch.ones(5, 2)))
    True
    """

    def __init__(self, model: nn.Sequential) -> None:
        """Copy the parameters into one flat parameter and make them views of it."""
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
        """Compute the logits and save the input of each layer."""
        parameters, taken = views(flat, shapes), [inputs]
        # Views of `flat`: to save `flat` is enough for autograd to notice a step in between.
        ctx.weights, ctx.shapes = parameters[::2], shapes
        for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
            taken.append(F.linear(taken[-1], weight, bias).relu_())
        ctx.save_for_backward(flat, *taken)
        return F.linear(taken[-1], *parameters[-2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *deltas: Tensor) -> tuple[Tensor | None, Tensor, None]:
        """Go back through the layers and multiply by the Jacobian of each."""
        (delta,) = deltas
        flat, *taken = ctx.saved_tensors
        gradient = torch.empty_like(flat)
        slots = views(gradient, ctx.shapes)
        for layer in reversed(range(len(taken))):
            torch.mm(delta.t(), taken[layer], out=slots[2 * layer])
            torch.sum(delta, 0, out=slots[2 * layer + 1])
            if layer:
                # The slope of ReLU is one where its output is positive, else zero. Autograd's own
                # operator for this is four times as fast as a mask.
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
        raise ValueError(f"ByHand needs distinct Linear layers, one ReLU between each two: {model}")
    if any(sum(p.requires_grad for p in layer.parameters()) < 2 for layer in linears):
        raise ValueError(f"each Linear layer needs a weight and a bias that require grad: {model}")
    return linears


def views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return consecutive views of a flat tensor, in these shapes."""
    sizes = [shape.numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
