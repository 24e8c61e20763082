"""Right answers to the exercises of lesson 3, autograd."""

import functools
import graphlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from dlconcepts.autograd import LossFunction, as_sum


def history__depth_first(tensor: Tensor) -> list[Node]:
    """Walk depth first with a stack of its own, and reverse the order in which nodes end."""
    if tensor.grad_fn is None:
        return []
    finished: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(tensor.grad_fn, False)]
    while stack:
        node, done = stack.pop()
        if done:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(used, False) for used, _ in node.next_functions if used is not None]
    return finished[::-1]


def history__counting(tensor: Tensor) -> list[Node]:
    """Take a node when all that used it were taken, as the engine of autograd does."""
    root = tensor.grad_fn
    if root is None:
        return []
    users: Counter[Node] = Counter()
    reached = {root}
    waiting = [root]
    while waiting:
        for used, _ in waiting.pop().next_functions:
            if used is not None:
                users[used] += 1
                if used not in reached:
                    reached.add(used)
                    waiting.append(used)
    order = []
    ready = [root]
    while ready:
        node = ready.pop()
        order.append(node)
        for used, _ in node.next_functions:
            if used is not None:
                users[used] -= 1
                if users[used] == 0:
                    ready.append(used)
    return order


def history__by_levels(tensor: Tensor) -> list[Node]:
    """Keep the deepest of the levels at which each node is found."""
    deepest: dict[Node, int] = {}
    level = {tensor.grad_fn} - {None}
    for depth in itertools.count():
        if not level:
            break
        deepest |= dict.fromkeys(level, depth)
        level = {used for node in level for used, _ in node.next_functions} - {None}
    return sorted(deepest, key=lambda node: deepest[node])


def history__graphlib(tensor: Tensor) -> list[Node]:
    """Let the standard library sort the graph."""
    if tensor.grad_fn is None:
        return []
    sorter: graphlib.TopologicalSorter[Node] = graphlib.TopologicalSorter()
    sorter.add(tensor.grad_fn)
    waiting, seen = [tensor.grad_fn], {tensor.grad_fn}
    while waiting:
        node = waiting.pop()
        for used, _ in node.next_functions:
            if used is None:
                continue
            sorter.add(used, node)
            if used not in seen:
                seen.add(used)
                waiting.append(used)
    return list(sorter.static_order())


def gradient__grad(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Use autograd.grad on a detached clone."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        result = function(leaf)
    if result.numel() != 1:
        raise RuntimeError(f"the function returned {result.numel()} elements instead of one")
    if not result.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(result, leaf, allow_unused=True)
    return torch.zeros_like(leaf).detach() if found is None else found


def gradient__backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call backward for a leaf of its own alone."""
    leaf = nn.Parameter(x.detach().clone())
    with torch.set_grad_enabled(True):
        value = function(leaf)
        if value.numel() != 1:
            raise RuntimeError("not a scalar function")
        (value.sum() + (leaf * 0).sum()).backward(inputs=[leaf])
    return leaf.grad


def gradient__func(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Transform the function with torch.func.grad."""

    def scalar(argument: Tensor) -> Tensor:
        result = function(argument)
        if result.numel() != 1:
            raise RuntimeError(f"expected one element, got shape {tuple(result.shape)}")
        return result.reshape(())

    return torch.func.grad(scalar)(x.detach()).detach()


def gradient__jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Read the gradient off the Jacobian of a function with one value."""

    def checked(argument: Tensor) -> Tensor:
        result = function(argument)
        if result.numel() != 1:
            raise RuntimeError("the gradient is defined for one element only")
        return result.reshape(1)

    return torch.autograd.functional.jacobian(checked, x.detach().clone()).reshape(x.shape)


def central_differences__by_a_loop(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Change one coordinate of a fresh copy at a time."""
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        values = []
        for sign in (1, -1):
            moved = x.detach().to(torch.float64, copy=True).reshape(-1)
            moved[i] += sign * step
            values.append(float(function(moved.reshape(x.shape))))
        result[i] = (values[0] - values[1]) / (2 * step)
    return result.reshape(x.shape)


def central_differences__unit_vectors(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Move along the rows of an identity matrix."""
    centre = x.detach().double()
    slopes = [
        (function(centre + step * unit) - function(centre - step * unit)).item() / step / 2
        for unit in torch.eye(x.numel(), dtype=torch.float64).reshape(-1, *x.shape)
    ]
    return torch.tensor(slopes, dtype=torch.float64).reshape(x.shape)


def central_differences__ndindex(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Index with numpy's tuples, and put each coordinate back."""
    point = x.detach().clone().double()
    point = point.clone()
    result = torch.empty(x.shape, dtype=torch.float64)
    with torch.no_grad():
        for index in np.ndindex(*x.shape):
            old = point[index].item()
            point[index] = old + step
            above = float(function(point.clone()))
            point[index] = old - step
            below = float(function(point.clone()))
            point[index] = old
            result[index] = (above - below) / (2 * step)
    return result


def chain_rule__jacobians(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Multiply the Jacobian of each function from the left."""
    point = x.detach()
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        after = function(point).detach()
        jacobian = torch.autograd.functional.jacobian(function, point)
        product = jacobian.reshape(after.numel(), point.numel()) @ product
        point = after
    return product


def chain_rule__composed(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Compose the functions, and take one Jacobian in reverse mode."""

    def composed(argument: Tensor) -> Tensor:
        return functools.reduce(lambda value, function: function(value), functions, argument)

    return torch.func.jacrev(composed)(x.detach()).detach()


def chain_rule__forward_mode(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Push each unit vector forward, which gives the columns."""

    def composed(argument: Tensor) -> Tensor:
        for function in functions:
            argument = function(argument)
        return argument

    x = x.detach()
    columns = [torch.func.jvp(composed, (x,), (unit,))[1] for unit in torch.eye(len(x)).to(x)]
    return torch.stack(columns, dim=1)


def chain_rule__recursive(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Multiply the Jacobian of the rest with that of the first function, row by row."""
    if len(functions) == 0:
        return torch.eye(x.numel(), dtype=x.dtype)
    leaf = x.detach().clone().requires_grad_()
    value = functions[0](leaf)
    rows = []
    for element in value.reshape(-1):
        row = None
        if element.requires_grad:
            (row,) = torch.autograd.grad(element, leaf, retain_graph=True, allow_unused=True)
        rows.append(torch.zeros(x.numel(), dtype=x.dtype) if row is None else row.reshape(-1))
    return chain_rule__recursive(functions[1:], value.detach()) @ torch.stack(rows)


def sum_over_paths__copies(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Give each use a leaf of its own, and add the gradients of all."""
    leaves = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    loss = function(*leaves)
    if not loss.requires_grad:
        return torch.zeros_like(weight)
    total = torch.zeros_like(weight).detach()
    for found in torch.autograd.grad(loss, leaves, allow_unused=True):
        if found is not None:
            total = total + found
    return total


def sum_over_paths__one_leaf(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Let autograd add the paths of one leaf."""
    leaf = weight.detach().requires_grad_()
    loss = function(*[leaf] * uses) + 0 * leaf.sum()
    return torch.autograd.grad(loss.sum(), leaf)[0]


def sum_over_paths__func(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Differentiate with respect to all arguments by torch.func."""

    def scalar(*weights: Tensor) -> Tensor:
        return function(*weights).reshape(())

    weights = (weight.detach(),) * uses
    gradients = torch.func.grad(scalar, argnums=tuple(range(uses)))(*weights)
    return torch.stack(gradients).sum(dim=0)


def sum_over_paths__one_path_at_a_time(
    function: Callable[..., Tensor], weight: Tensor, uses: int
) -> Tensor:
    """Differentiate along one path, with the other uses held fixed, and then the next."""
    fixed = weight.detach()
    result = torch.zeros_like(fixed)
    for use in range(uses):

        def path(argument: Tensor, use: int = use) -> Tensor:
            arguments = [fixed] * uses
            arguments[use] = argument
            return function(*arguments).reshape(())

        result += torch.autograd.functional.jacobian(path, fixed)
    return result


def _linears(model: nn.Sequential) -> list[nn.Linear]:
    """Return the Linear layers of a chain, or raise ValueError."""
    layers = list(model)
    if len({id(layer) for layer in layers}) != len(layers):
        raise ValueError("a layer occurs twice")
    if layers and type(layers[0]) is nn.Flatten:
        if (layers[0].start_dim, layers[0].end_dim) != (1, -1):
            raise ValueError("Flatten must keep the batch dimension alone")
        layers = layers[1:]
    if len(layers) % 2 == 0:
        raise ValueError("expected Linear, ReLU, Linear and so on")
    for i, layer in enumerate(layers):
        if type(layer) is not (nn.ReLU if i % 2 else nn.Linear):
            raise ValueError(f"unexpected layer {layer}")
    if not all(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("a parameter is frozen")
    return layers[::2]


class _ByHandFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, inputs: Tensor, shapes: list[Any]) -> Tensor:
        pieces = [
            piece.view(shape)
            for piece, shape in zip(
                flat.split([shape.numel() for shape in shapes]), shapes, strict=True
            )
        ]
        x = inputs.reshape(len(inputs), pieces[0].shape[1])
        weights, saved = [], []
        while pieces:
            weight = pieces.pop(0)
            bias = pieces.pop(0) if pieces and pieces[0].dim() == 1 else None
            if weights:
                x = x.relu()
            saved.append(x)
            weights.append(weight)
            x = F.linear(x, weight, bias)
        ctx.save_for_backward(*weights, *saved)
        ctx.shapes, ctx.input_shape = shapes, inputs.shape
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        count = len(ctx.saved_tensors) // 2
        weights, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        shapes = list(ctx.shapes)
        found: list[Tensor] = []
        for i in reversed(range(count)):
            if len(shapes.pop()) == 1:
                found.insert(0, grad.sum(dim=0))
                shapes.pop()
            found.insert(0, (grad.t() @ saved[i]).reshape(-1))
            grad = grad @ weights[i]
            if i:
                grad = grad * (saved[i] > 0)
        return torch.cat(found), grad.reshape(ctx.input_shape), None


class ByHand__function(nn.Module):
    """Save the input of each layer for the backward pass."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        _linears(model)
        parameters = list(model.parameters())
        self.shapes = [parameter.shape for parameter in parameters]
        self.flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        start = 0
        for parameter in parameters:
            part = self.flat.detach()[start : start + parameter.numel()]
            parameter.data = part.view(parameter.shape)
            start += parameter.numel()

    def forward(self, inputs: Tensor) -> Tensor:
        return _ByHandFunction.apply(self.flat, inputs, self.shapes)


def _down(x: Tensor, layers: list[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """Return the input of each layer and the output of the last."""
    if not layers:
        return [x]
    (weight, bias), *rest = layers
    after = x @ weight.T if bias is None else torch.addmm(bias, x, weight.T)
    return [x, *_down(after.clamp(min=0) if rest else after, rest)]


def _up(
    grad: Tensor, layers: list[tuple[Tensor, Tensor | None]], inputs: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient of the first input, and those of the parameters."""
    if not layers:
        return grad, []
    grad, rest = _up(grad, layers[1:], inputs[1:])
    if len(layers) > 1:
        grad = torch.where(inputs[1] > 0, grad, torch.zeros_like(grad))
    own = [grad.T.mm(inputs[0]).flatten()]
    if layers[0][1] is not None:
        own.append(grad.sum(0))
    return grad.mm(layers[0][0]), own + rest


class _RecursiveFunction(torch.autograd.Function):
    @staticmethod
    def forward(flat: Tensor, inputs: Tensor, sizes: Any) -> tuple[Tensor, ...]:
        rows = inputs.reshape(inputs.shape[0], sizes[0][1])
        every = _down(rows, _cut(flat, sizes))
        return (every[-1].clone(), *[tensor.clone() for tensor in every[:-1]])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        flat, x, ctx.sizes = inputs
        ctx.shape = x.shape
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(flat, *output[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor, Tensor, None]:
        flat, *inputs = ctx.saved_tensors
        first, found = _up(grad, _cut(flat, ctx.sizes), inputs)
        return torch.cat(found), first.reshape(ctx.shape), None


def _cut(flat: Tensor, sizes: list[tuple[int, int, bool]]) -> list[tuple[Tensor, Tensor | None]]:
    layers: list[tuple[Tensor, Tensor | None]] = []
    at = 0
    for rows, columns, has_bias in sizes:
        weight = flat[at : at + rows * columns].view(rows, columns)
        at += rows * columns
        layers.append((weight, flat[at : at + rows] if has_bias else None))
        at += rows * has_bias
    return layers


class ByHand__recursive(nn.Module):
    """Go down the chain and up again by recursion."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        linears = _linears(model)
        self.sizes = [(x.out_features, x.in_features, x.bias is not None) for x in linears]
        with torch.no_grad():
            self.flat = nn.Parameter(nn.utils.parameters_to_vector(model.parameters()).clone())
            for layer, (weight, bias) in zip(
                linears, _cut(self.flat.data, self.sizes), strict=True
            ):
                layer.weight.data = weight
                if bias is not None:
                    layer.bias.data = bias

    def forward(self, inputs: Tensor) -> Tensor:
        return _RecursiveFunction.apply(self.flat, inputs, self.sizes)[0]


class _AugmentedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, flat: Tensor, inputs: Tensor, module: Any) -> Tensor:
        x = inputs.reshape(len(inputs), module.in_features)
        columns = []
        matrices = module.matrices(flat)
        for i, matrix in enumerate(matrices):
            if matrix.shape[1] > x.shape[1]:
                x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
            columns.append(x)
            x = x @ matrix.t()
            if i + 1 < len(matrices):
                x = F.relu(x)
        ctx.save_for_backward(flat, *columns)
        ctx.module, ctx.shape = module, inputs.shape
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        flat, *columns = ctx.saved_tensors
        result = torch.empty_like(flat)
        pairs = zip(ctx.module.matrices(flat), ctx.module.matrices(result), strict=True)
        for i, (matrix, place) in reversed(list(enumerate(pairs))):
            place.copy_(grad.t() @ columns[i])
            before = grad @ matrix
            if i:
                width = ctx.module.sizes[i - 1][0]
                grad = before[:, :width] * columns[i][:, :width].sign()
            else:
                grad = before[:, : ctx.module.in_features]
        return result, grad.reshape(ctx.shape), None


class ByHand__bias_as_a_column(nn.Module):
    """Keep weight and bias of a layer in one matrix, and append a one to its inputs."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        linears = _linears(model)
        self.in_features = linears[0].in_features
        self.sizes = [
            (layer.out_features, layer.in_features + (layer.bias is not None)) for layer in linears
        ]
        count = sum(rows * columns for rows, columns in self.sizes)
        self.flat = nn.Parameter(linears[0].weight.detach().new_empty(count))
        for layer, matrix in zip(linears, self.matrices(self.flat.data), strict=True):
            matrix[:, : layer.in_features] = layer.weight.data
            layer.weight.data = matrix[:, : layer.in_features]
            if layer.bias is not None:
                matrix[:, -1] = layer.bias.data
                layer.bias.data = matrix[:, -1]

    def matrices(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([rows * columns for rows, columns in self.sizes])
        return [part.view(size) for part, size in zip(parts, self.sizes, strict=True)]

    def forward(self, inputs: Tensor) -> Tensor:
        return _AugmentedFunction.apply(self.flat, inputs, self)


def accumulate__known_total(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Keep the data, count it first, and divide each sum by the total."""
    total_loss, count = as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(float(count(labels)) for _, labels in pairs)
    for inputs, labels in pairs:
        (total_loss(model(inputs), labels) / total).backward()


def accumulate__streaming(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Read the data once, add the gradients of sums apart, and divide at the end."""
    total_loss, count = as_sum(loss_fn)
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums: list[Tensor | None] = [None] * len(parameters)
    total = 0.0
    for inputs, labels in micro_batches:
        loss = total_loss(model(inputs), labels)
        total += float(count(labels))
        for i, found in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            if found is not None:
                sums[i] = found if sums[i] is None else sums[i] + found
    for parameter, found in zip(parameters, sums, strict=True):
        if found is not None:
            mean = found / total
            parameter.grad = mean if parameter.grad is None else parameter.grad + mean


def accumulate__puts_aside(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Put the earlier gradients aside, let backward add, and bring them back."""
    add_up, divisor = as_sum(loss_fn)
    before = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    total = 0.0
    for inputs, labels in micro_batches:
        add_up(model(inputs), labels).backward()
        total += float(divisor(labels))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.grad is None:
                parameter.grad = before[name]
            else:
                parameter.grad /= total
                if before[name] is not None:
                    parameter.grad += before[name]
