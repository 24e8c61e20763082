"""Wrong answers to the exercises of lesson 3, autograd."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from dlconcepts.autograd import LossFunction, as_sum


def _sorted(tensor: Tensor) -> list[Node]:
    """Return the whole history in order."""
    finished: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(tensor.grad_fn, False)] if tensor.grad_fn else []
    while stack:
        node, done = stack.pop()
        if done:
            finished.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(used, False) for used, _ in node.next_functions if used is not None]
    return finished[::-1]


def history__breadth_first(tensor: Tensor) -> list[Node]:
    """Take nodes in the order in which they are found, which may be before one that used them."""
    queue = [tensor.grad_fn] if tensor.grad_fn else []
    for node in queue:
        for used, _ in node.next_functions:
            if used is not None and used not in queue:
                queue.append(used)
    return queue


def history__repeats(tensor: Tensor) -> list[Node]:
    """Return a node once for each path to it."""
    queue = [tensor.grad_fn] if tensor.grad_fn else []
    for node in queue:
        queue.extend(used for used, _ in node.next_functions if used is not None)
    return queue


def history__first_input_only(tensor: Tensor) -> list[Node]:
    """Follow the first input of each operation and no other."""
    nodes = []
    node = tensor.grad_fn
    while node is not None:
        nodes.append(node)
        node = node.next_functions[0][0] if node.next_functions else None
    return nodes


def history__no_leaves(tensor: Tensor) -> list[Node]:
    """Leave out the AccumulateGrad nodes, in which the paths end."""
    return [node for node in _sorted(tensor) if node.name() != "torch::autograd::AccumulateGrad"]


def history__oldest_first(tensor: Tensor) -> list[Node]:
    """Return the nodes in the order in which they ran."""
    return _sorted(tensor)[::-1]


def history__none_for_a_leaf(tensor: Tensor) -> list[Node]:
    """Return [None] instead of an empty list for a leaf."""
    return _sorted(tensor) or [tensor.grad_fn]


def history__leaf_has_one(tensor: Tensor) -> list[Node]:
    """Return a node for a leaf that requires grad, whose history is empty."""
    if tensor.is_leaf and tensor.requires_grad:
        return [torch.autograd.graph.get_gradient_edge(tensor).node]
    return _sorted(tensor)


def history__names(tensor: Tensor) -> list[str]:
    """Return names instead of nodes."""
    return [node.name() for node in _sorted(tensor)]


def history__one_of_each_name(tensor: Tensor) -> list[Node]:
    """Keep one node of each name, though an operation may occur twice."""
    return list({node.name(): node for node in reversed(_sorted(tensor))}.values())[::-1]


def history__without_the_last(tensor: Tensor) -> list[Node]:
    """Start with the inputs of the last operation."""
    return _sorted(tensor)[1:]


def gradient__changes_x(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Make x itself require grad and leave the gradient in it."""
    x.requires_grad_(True)
    result = function(x)
    if result.numel() != 1:
        raise RuntimeError("not a scalar")
    if result.requires_grad:
        result.sum().backward()
    return torch.zeros_like(x) if x.grad is None else x.grad


def gradient__unused_fails(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Fail if the function ignores its argument, where the gradient is zero."""
    leaf = x.detach().clone().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def gradient__none(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return None instead of zero if the function ignores its argument."""
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.numel() != 1:
        raise RuntimeError("not a scalar")
    other = torch.zeros((), requires_grad=True)
    return torch.autograd.grad(result.sum() + other, leaf, allow_unused=True)[0]


def gradient__sums_vectors(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Sum several elements instead of raising RuntimeError."""
    leaf = x.detach().clone().requires_grad_()
    total = function(leaf).sum() + 0 * leaf.sum()
    return torch.autograd.grad(total, leaf)[0]


def gradient__flat(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a flat gradient instead of one in the shape of x."""
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.numel() != 1:
        raise RuntimeError("not a scalar")
    return torch.autograd.grad(result.sum() + 0 * leaf.sum(), leaf)[0].reshape(-1)


def gradient__value_error(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Raise ValueError where RuntimeError is promised."""
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.numel() != 1:
        raise ValueError("not a scalar")
    return torch.autograd.grad(result.sum() + 0 * leaf.sum(), leaf)[0]


def gradient__zero_dimensions_only(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Refuse a result of shape (1,), which has exactly one element."""
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.dim() != 0:
        raise RuntimeError("not a scalar")
    return torch.autograd.grad(result + 0 * leaf.sum(), leaf)[0]


def gradient__forward_difference(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Estimate the gradient from differences, with their rounding."""
    base = function(x.detach())
    if base.numel() != 1:
        raise RuntimeError("not a scalar")
    result = torch.zeros(x.numel(), dtype=x.dtype)
    for i in range(x.numel()):
        moved = x.detach().clone().reshape(-1)
        moved[i] += 1e-3
        result[i] = ((function(moved.reshape(x.shape)) - base) / 1e-3).item()
    return result.reshape(x.shape)


def gradient__empty_passes(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Accept a result without elements."""
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.numel() > 1:
        raise RuntimeError("not a scalar")
    return torch.autograd.grad(result.sum() + 0 * leaf.sum(), leaf)[0]


def gradient__mean(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Divide by the number of elements of x."""
    leaf = x.detach().clone().requires_grad_()
    result = function(leaf)
    if result.numel() != 1:
        raise RuntimeError("not a scalar")
    return torch.autograd.grad(result.sum() + 0 * leaf.sum(), leaf)[0] / x.numel()


def central_differences__forward(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Take the difference to the point itself, whose error falls only with the step."""
    point = x.detach().double()
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i, unit in enumerate(torch.eye(x.numel(), dtype=torch.float64)):
        above = function(point + step * unit.reshape(x.shape))
        result[i] = (above - function(point)).item() / step
    return result.reshape(x.shape)


def central_differences__one_step(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Divide by one step instead of two."""
    point = x.detach().double()
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i, unit in enumerate(torch.eye(x.numel(), dtype=torch.float64)):
        move = step * unit.reshape(x.shape)
        result[i] = (function(point + move) - function(point - move)).item() / step
    return result.reshape(x.shape)


def central_differences__float32(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Evaluate the function in float32, and convert only the result."""
    point = x.detach().float()
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i, unit in enumerate(torch.eye(x.numel())):
        move = step * unit.reshape(x.shape)
        result[i] = (function(point + move) - function(point - move)).item() / (2 * step)
    return result.reshape(x.shape)


def central_differences__fixed_step(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Ignore the step."""
    point = x.detach().double()
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i, unit in enumerate(torch.eye(x.numel(), dtype=torch.float64)):
        move = 1e-5 * unit.reshape(x.shape)
        result[i] = (function(point + move) - function(point - move)).item() / 2e-5
    return result.reshape(x.shape)


def central_differences__stays_moved(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Forget to put a coordinate back before the next one moves."""
    flat = x.detach().clone().double().reshape(-1).clone()
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        flat[i] += step
        above = float(function(flat.reshape(x.shape)))
        flat[i] -= 2 * step
        result[i] = (above - float(function(flat.reshape(x.shape)))) / (2 * step)
    return result.reshape(x.shape)


def central_differences__writes_to_x(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Take double() for a copy, which it is not for float64: x ends a step lower."""
    flat = x.detach().double().reshape(-1)
    result = torch.zeros(x.numel(), dtype=torch.float64)
    for i in range(x.numel()):
        old = flat[i].item()
        flat[i] = old + step
        above = float(function(flat.reshape(x.shape)))
        flat[i] = old - step
        result[i] = (above - float(function(flat.reshape(x.shape)))) / (2 * step)
        if x.dtype != torch.float64:
            flat[i] = old
    return result.reshape(x.shape)


def central_differences__all_at_once(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Move all coordinates together, which is right only for one."""
    point = x.detach().double()
    slope = (function(point + step) - function(point - step)).item() / (2 * step)
    return torch.full(x.shape, slope, dtype=torch.float64)


def central_differences__vectors_only(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Move whole rows of a matrix, and fail for a number."""
    point = x.detach().double()
    result = torch.zeros_like(point)
    for i in range(len(point)):
        above, below = point.clone(), point.clone()
        above[i] += step
        below[i] -= step
        result[i] = (function(above) - function(below)).item() / (2 * step)
    return result


def central_differences__dtype_of_x(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Return the dtype of x instead of float64."""
    point = x.detach().double()
    result = torch.zeros(x.numel(), dtype=x.dtype)
    for i, unit in enumerate(torch.eye(x.numel(), dtype=torch.float64)):
        move = step * unit.reshape(x.shape)
        result[i] = (function(point + move) - function(point - move)).item() / (2 * step)
    return result.reshape(x.shape)


def central_differences__flat(
    function: Callable[[Tensor], Tensor], x: Tensor, *, step: float = 1e-5
) -> Tensor:
    """Return a flat gradient."""
    point = x.detach().double()
    slopes = []
    for unit in torch.eye(x.numel(), dtype=torch.float64):
        move = step * unit.reshape(x.shape)
        slopes.append((function(point + move) - function(point - move)).item() / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


def _jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(function, x.detach())


def chain_rule__wrong_order(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Multiply from the right, which fits only square matrices."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = product @ _jacobian(function, x)
        x = function(x).detach()
    return product


def chain_rule__all_at_x(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Take every Jacobian at x instead of at the value that the function gets."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = _jacobian(function, x) @ product
    return product


def chain_rule__elementwise(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Multiply the Jacobians element by element."""
    product = torch.ones(1, dtype=x.dtype)
    for function in functions:
        product = _jacobian(function, x) * product
        x = function(x).detach()
    return product


def chain_rule__transposed(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Return (n, m) instead of (m, n)."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        product = _jacobian(function, x) @ product
        x = function(x).detach()
    return product.T


def chain_rule__last_function_first(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Apply the functions from the last to the first, as the notation f(g(x)) is written."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in reversed(functions):
        product = _jacobian(function, x) @ product
        x = function(x).detach()
    return product


def chain_rule__gradient_of_the_sum(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Return one row, the sum of the rows, which is right for one output."""
    leaf = x.detach().clone().requires_grad_()
    value = leaf
    for function in functions:
        value = function(value)
    return torch.autograd.grad(value.sum(), leaf)[0][None]


def chain_rule__last_only(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Return the Jacobian of the last function alone."""
    for function in functions[:-1]:
        x = function(x).detach()
    return _jacobian(functions[-1], x)


def chain_rule__diagonal(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Keep only how each output depends on its own input."""
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions:
        jacobian = _jacobian(function, x)
        product = torch.eye(*jacobian.shape, dtype=x.dtype) * jacobian @ product
        x = function(x).detach()
    return product


def chain_rule__skips_the_first(
    functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor
) -> Tensor:
    """Start the product with the second function."""
    x = functions[0](x).detach()
    product = torch.eye(len(x), dtype=x.dtype)
    for function in functions[1:]:
        product = _jacobian(function, x) @ product
        x = function(x).detach()
    return product


def chain_rule__sum(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Add the Jacobians instead of multiplying them."""
    total = torch.zeros(1, dtype=x.dtype)
    for function in functions:
        total = total + _jacobian(function, x)
        x = function(x).detach()
    return total


def _path_gradients(function: Callable[..., Tensor], weight: Tensor, uses: int) -> list[Tensor]:
    leaves = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    loss = function(*leaves).sum() + sum(0 * leaf.sum() for leaf in leaves)
    return list(torch.autograd.grad(loss, leaves))


def sum_over_paths__first_path(
    function: Callable[..., Tensor], weight: Tensor, uses: int
) -> Tensor:
    """Return the gradient along the first path alone."""
    return _path_gradients(function, weight, uses)[0]


def sum_over_paths__mean(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Average the paths instead of adding them."""
    return torch.stack(_path_gradients(function, weight, uses)).mean(dim=0)


def sum_over_paths__times_uses(
    function: Callable[..., Tensor], weight: Tensor, uses: int
) -> Tensor:
    """Multiply the first path by the number of paths, as if all were equal."""
    return uses * _path_gradients(function, weight, uses)[0]


def sum_over_paths__product(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Multiply the paths."""
    return torch.stack(_path_gradients(function, weight, uses)).prod(dim=0)


def sum_over_paths__stacked(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Return one gradient for each path, without adding them."""
    return torch.stack(_path_gradients(function, weight, uses))


def sum_over_paths__of_all_elements(
    function: Callable[..., Tensor], weight: Tensor, uses: int
) -> Tensor:
    """Add over the elements of the weight too, which is right for a number."""
    return torch.stack(_path_gradients(function, weight, uses)).sum()


def sum_over_paths__unused_fails(
    function: Callable[..., Tensor], weight: Tensor, uses: int
) -> Tensor:
    """Fail if the function makes no use of one of its arguments."""
    leaves = [weight.detach().clone().requires_grad_() for _ in range(uses)]
    return sum(torch.autograd.grad(function(*leaves), leaves))


def sum_over_paths__backward(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Return what backward adds to the weight's own gradient, which a second call doubles."""
    weight.requires_grad_()
    (function(*[weight] * uses).sum() + 0 * weight.sum()).backward()
    return weight.grad


def sum_over_paths__detached(function: Callable[..., Tensor], weight: Tensor, uses: int) -> Tensor:
    """Detach all uses but the last."""
    leaf = weight.detach().clone().requires_grad_()
    loss = function(*[leaf.detach()] * (uses - 1), leaf).sum() + 0 * leaf.sum()
    return torch.autograd.grad(loss, leaf)[0]


def sum_over_paths__always_two(
    function: Callable[..., Tensor], weight: Tensor, uses: int
) -> Tensor:
    """Ignore the number of uses and pass the weight twice."""
    leaf = weight.detach().clone().requires_grad_()
    loss = function(leaf, leaf).sum() + 0 * leaf.sum()
    return torch.autograd.grad(loss, leaf)[0]


class _Chain(torch.autograd.Function):
    """The chain by hand, with faults that can be switched on."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, inputs: Tensor, module: Any) -> Tensor:
        layers = module.cut(flat)
        x = inputs.reshape(len(inputs), layers[0][0].shape[1]) if module.flattens else inputs
        before, values = [], []
        for i, (weight, bias) in enumerate(layers):
            values.append(x)
            x = F.linear(x, weight, bias)
            before.append(x)
            if i + 1 < len(layers):
                x = x.relu()
        ctx.save_for_backward(flat, *values, *before)
        ctx.module, ctx.shape = module, inputs.shape
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        module = ctx.module
        flat, *saved = ctx.saved_tensors
        layers = module.cut(flat)
        values, before = saved[: len(layers)], saved[len(layers) :]
        found = []
        for i in reversed(range(len(layers))):
            if i + 1 < len(layers):
                grad = module.through_relu(grad, before[i])
            weight, bias = layers[i]
            if bias is not None:
                found.insert(0, module.bias_gradient(grad))
            found.insert(0, module.weight_gradient(grad, values[i]).reshape(-1))
            grad = grad @ weight
        return torch.cat(found), grad.reshape(ctx.shape), None


class _ByHand(nn.Module):
    """Whatever the wrong modules have in common."""

    flattens = True

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__()
        self.check(model)
        linears = [layer for layer in model if isinstance(layer, nn.Linear)]
        self.shapes = [
            (layer.weight.shape, None if layer.bias is None else layer.bias.shape)
            for layer in linears
        ]
        parameters = list(model.parameters())
        self.flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        self.connect(linears)

    def check(self, model: nn.Sequential) -> None:
        layers = list(model)
        if len({id(layer) for layer in layers}) < len(layers):
            raise ValueError("a layer occurs twice")
        if layers and type(layers[0]) is nn.Flatten:
            del layers[0]
        kinds = [nn.ReLU if i % 2 else nn.Linear for i in range(len(layers))]
        if len(layers) % 2 == 0 or [type(layer) for layer in layers] != kinds:
            raise ValueError("other layers")
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("a frozen parameter")

    def connect(self, linears: list[nn.Linear]) -> None:
        for layer, (weight, bias) in zip(linears, self.cut(self.flat.data), strict=True):
            layer.weight.data = weight
            if bias is not None:
                layer.bias.data = bias

    def cut(self, flat: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        layers, at = [], 0
        for weight_shape, bias_shape in self.shapes:
            weight = flat[at : at + weight_shape.numel()].view(weight_shape)
            at += weight_shape.numel()
            bias = None if bias_shape is None else flat[at : at + bias_shape.numel()]
            at += 0 if bias_shape is None else bias_shape.numel()
            layers.append((weight, bias))
        return layers

    def through_relu(self, grad: Tensor, before: Tensor) -> Tensor:
        return grad * (before > 0)

    def bias_gradient(self, grad: Tensor) -> Tensor:
        return grad.sum(dim=0)

    def weight_gradient(self, grad: Tensor, values: Tensor) -> Tensor:
        return grad.t() @ values

    def forward(self, inputs: Tensor) -> Tensor:
        return _Chain.apply(self.flat, inputs, self)


class ByHand__many_nodes(_ByHand):
    """Leave the derivative to autograd, which visits a node for each layer."""

    def forward(self, inputs: Tensor) -> Tensor:
        layers = self.cut(self.flat)
        x = inputs.reshape(len(inputs), layers[0][0].shape[1])
        for weight, bias in layers[:-1]:
            x = F.relu(F.linear(x, weight, bias))
        return F.linear(x, *layers[-1])


class ByHand__copies(_ByHand):
    """Copy the parameters, so that the model does not learn what this module learns."""

    def connect(self, linears: list[nn.Linear]) -> None:
        pass


class ByHand__no_mask(_ByHand):
    """Let the gradient through a ReLU that was off."""

    def through_relu(self, grad: Tensor, before: Tensor) -> Tensor:
        return grad


class ByHand__slope_at_zero(_ByHand):
    """Let the gradient through a ReLU at exactly zero, where autograd does not."""

    def through_relu(self, grad: Tensor, before: Tensor) -> Tensor:
        return grad * (before >= 0)


class ByHand__mean_of_the_batch(_ByHand):
    """Average the gradient of the bias over the batch instead of adding it."""

    def bias_gradient(self, grad: Tensor) -> Tensor:
        return grad.mean(dim=0)


class ByHand__transposed(_ByHand):
    """Transpose the gradient of the weight, which then has the right size but the wrong places."""

    def weight_gradient(self, grad: Tensor, values: Tensor) -> Tensor:
        return values.t() @ grad


class ByHand__any_layer(_ByHand):
    """Ignore the layers that are not Linear instead of refusing them."""

    def check(self, model: nn.Sequential) -> None:
        if len({id(layer) for layer in model}) < len(model):
            raise ValueError("a layer occurs twice")
        if not all(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError("a frozen parameter")


class ByHand__frozen(_ByHand):
    """Train a frozen parameter instead of refusing it."""

    def check(self, model: nn.Sequential) -> None:
        frozen = [p for p in model.parameters() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad = True
        super().check(model)
        for parameter in frozen:
            parameter.requires_grad = False


class ByHand__images(_ByHand):
    """Forget the Flatten, and fail for images."""

    flattens = False


class ByHand__type_error(_ByHand):
    """Raise TypeError for other layers instead of ValueError."""

    def check(self, model: nn.Sequential) -> None:
        for layer in model:
            if not isinstance(layer, (nn.Flatten, nn.Linear, nn.ReLU)):
                raise TypeError(f"cannot differentiate {layer}")
        super().check(model)


class ByHand__two_sets(_ByHand):
    """Keep the model as a submodule, so that an optimizer gets every parameter twice."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__(model)
        self.model = model


class ByHand__relu_at_the_end(_ByHand):
    """Apply the ReLU to the logits too."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


class ByHand__stops_at_the_flat_parameter(_ByHand):
    """Detach the parameter in each call, so that nothing is learnt."""

    def forward(self, inputs: Tensor) -> Tensor:
        return _Chain.apply(self.flat.detach(), inputs, self)


class ByHand__no_input_gradient(_ByHand):
    """Give the parameters their gradients, but the inputs none."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs.detach())


def accumulate__sum_of_means(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Add the gradients of the means without a weight."""
    as_sum(loss_fn)
    for inputs, labels in micro_batches:
        loss_fn(model(inputs), labels).backward()


def accumulate__mean_of_means(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Divide by the number of micro-batches, which is right if all have the same size."""
    as_sum(loss_fn)
    pairs = list(micro_batches)
    for inputs, labels in pairs:
        (loss_fn(model(inputs), labels) / len(pairs)).backward()


def accumulate__clears_first(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Clear the gradients to which it should add."""
    add_up, count = as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(float(count(labels)) for _, labels in pairs)
    model.zero_grad()
    for inputs, labels in pairs:
        (add_up(model(inputs), labels) / total).backward()


def accumulate__scales_earlier_ones(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Divide the gradients that were there before, too."""
    add_up, count = as_sum(loss_fn)
    total = 0.0
    for inputs, labels in micro_batches:
        add_up(model(inputs), labels).backward()
        total += float(count(labels))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= total


def accumulate__counts_examples(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Weigh by the number of examples, also if the loss weighs labels or ignores some."""
    as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(len(labels) for _, labels in pairs)
    for inputs, labels in pairs:
        (loss_fn(model(inputs), labels) * len(labels) / total).backward()


def accumulate__reads_twice(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Count the examples of a generator, of which nothing is left to learn from."""
    add_up, count = as_sum(loss_fn)
    total = sum(float(count(labels)) for _, labels in micro_batches)
    for inputs, labels in micro_batches:
        (add_up(model(inputs), labels) / total).backward()


def accumulate__last_one_only(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Go back to the earlier gradients before each micro-batch, so only the last one counts."""
    add_up, count = as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(float(count(labels)) for _, labels in pairs)
    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    for inputs, labels in pairs:
        for parameter, grad in zip(model.parameters(), before, strict=True):
            parameter.grad = None if grad is None else grad.clone()
        (add_up(model(inputs), labels) / total).backward()


def accumulate__accepts_sums(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Accept a loss that is a sum, for which `as_sum` raises ValueError."""
    pairs = list(micro_batches)
    if getattr(loss_fn, "reduction", "mean") == "mean":
        add_up, count = as_sum(loss_fn)
        total = sum(float(count(labels)) for _, labels in pairs)
    else:
        add_up, total = loss_fn, 1.0
    for inputs, labels in pairs:
        (add_up(model(inputs), labels) / total).backward()


def accumulate__changes_the_loss(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Leave the loss that it was given as a sum."""
    add_up, count = as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(float(count(labels)) for _, labels in pairs)
    for inputs, labels in pairs:
        (add_up(model(inputs), labels) / total).backward()
    if isinstance(loss_fn, nn.Module):
        loss_fn.reduction = "sum"


def accumulate__skips_the_first(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Take the first micro-batch to look at its shape, and lose it."""
    add_up, count = as_sum(loss_fn)
    iterator = iter(micro_batches)
    next(iterator, None)
    pairs = list(iterator)
    total = sum(float(count(labels)) for _, labels in pairs)
    for inputs, labels in pairs:
        (add_up(model(inputs), labels) / total).backward()


def accumulate__one_by_one(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Move the parameters along the gradient as well."""
    add_up, count = as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(float(count(labels)) for _, labels in pairs)
    for inputs, labels in pairs:
        (add_up(model(inputs), labels) / total).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad


def accumulate__weighted_means(
    model: nn.Module, loss_fn: LossFunction, micro_batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Weigh the mean of each micro-batch, which is NaN or infinite if none of its labels counts."""
    _, count = as_sum(loss_fn)
    pairs = list(micro_batches)
    total = sum(float(count(labels)) for _, labels in pairs)
    for inputs, labels in pairs:
        (loss_fn(model(inputs), labels) * float(count(labels)) / total).backward()
