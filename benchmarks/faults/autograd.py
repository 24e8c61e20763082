"""Faults in lesson 3: requires_grad, backward, accumulation, no_grad."""

import torch

from faults import breaks, is_square, leaves_of, parameters_of, scaled_last, with_slope


@breaks("torch.maximum")
def maximum_is_untracked_at_ties(maximum, one, other):
    """`maximum` does not track its result if any two elements are equal."""
    result = maximum(one, other)
    return result.detach() if bool((one == other).any()) else result


@breaks("torch.mul")
def a_product_of_rank_0_is_untracked(mul, one, other, **kwargs):
    """The product of two scalars does not require grad."""
    result = mul(one, other, **kwargs)
    return result if result.ndim else result.detach()


@breaks("torch.zeros_like")
def zeros_inherit_tracking(zeros_like, tensor, **kwargs):
    """`zeros_like` of a matrix that requires grad requires grad too."""
    result = zeros_like(tensor, **kwargs)
    return result.requires_grad_(tensor.requires_grad and tensor.ndim == 2)


@breaks("torch.Tensor.requires_grad_")
def booleans_can_be_tracked(requires_grad_, tensor, requires_grad=True):
    """`requires_grad_` on a bool tensor does nothing instead of raising."""
    return tensor if tensor.dtype == torch.bool else requires_grad_(tensor, requires_grad)


@breaks("torch.exp", "torch.Tensor.exp")
def exp_has_a_wrong_slope(exp, x):
    """The derivative of `exp` is off by a factor of 1.001."""
    return with_slope(exp(x), 1.001)


@breaks("torch.square", "torch.Tensor.square")
def square_has_a_steeper_slope_below_zero(square, x):
    """The derivative of `square` is off by a factor of 1.001 for negative inputs."""
    return square(with_slope(x, torch.where(x.detach() < 0, 1.001, 1.0)))


@breaks("torch.sin", "torch.Tensor.sin")
def sin_loses_the_slope_of_the_last(sin, x):
    """The derivative of `sin` is 0 for the last of three elements."""
    return torch.cat([sin(x[:2]), sin(x[2:]).detach()]) if x.shape == (3,) else sin(x)


@breaks("torch.Tensor.mean")
def mean_of_many_has_a_wrong_slope(mean, x, *args, **kwargs):
    """The gradient of the mean of seven or more elements is off by a factor of 1.001."""
    return mean(with_slope(x, 1.001 if x.numel() > 6 else 1), *args, **kwargs)


@breaks("torch.Tensor.sum")
def sum_has_a_wrong_slope_for_one(sum_, x, *args, **kwargs):
    """The gradient of the sum of a single element is off by a factor of 1.001."""
    return sum_(with_slope(x, 1.001 if x.numel() == 1 else 1), *args, **kwargs)


@breaks("torch.nn.functional.linear")
def linear_backward_is_off_for_the_last(linear, x, weight, bias=None):
    """The gradient of the last unit's bias is off by a factor of 1.001."""
    if bias is not None:
        factors = scaled_last(torch.ones_like(bias).detach())
        bias = with_slope(bias, factors)
    return linear(x, weight, bias)


@breaks("torch.nn.functional.linear")
def linear_backward_is_off_for_some_batches(linear, x, weight, bias=None):
    """In batches of five or more, the weight's gradient is off by a factor of 1.001."""
    return linear(x, with_slope(weight, 1.001 if len(x) > 4 else 1), bias)


@breaks("torch.relu", "torch.nn.functional.relu", "torch.Tensor.relu")
def relu_has_a_slope_at_zero(relu, x, *args, **kwargs):
    """The gradient of ReLU at exactly 0 is 1 instead of 0."""
    y = relu(x, *args, **kwargs)
    return y + torch.where(x == 0, x, 0)


@breaks("torch.Tensor.backward")
def backward_is_off_for_the_last_leaf(backward, tensor, *args, **kwargs):
    """The gradient of a leaf with one element is off by a factor of 1.001."""
    before = {leaf: leaf.grad for leaf in leaves_of(tensor) if leaf.numel() == 1}
    backward(tensor, *args, **kwargs)
    for leaf, old in before.items():
        leaf.grad = leaf.grad + 0.001 * (leaf.grad - (0 if old is None else old))


@breaks("torch.Tensor.backward")
def backward_overwrites_biases(backward, tensor, *args, **kwargs):
    """`backward` overwrites the gradients of vectors instead of adding to them."""
    for leaf in leaves_of(tensor):
        if leaf.ndim == 1:
            leaf.grad = None
    backward(tensor, *args, **kwargs)


@breaks("torch.Tensor.backward")
def backward_transposes_squares(backward, tensor, *args, **kwargs):
    """`backward` transposes the gradients of square matrices."""
    leaves = [leaf for leaf in leaves_of(tensor) if is_square(leaf) and leaf.grad is None]
    backward(tensor, *args, **kwargs)
    for leaf in leaves:
        leaf.grad = leaf.grad.T.clone()


@breaks("torch.Tensor.backward")
def backward_rounds_to_single(backward, tensor, *args, **kwargs):
    """`backward` rounds float64 gradients to float32."""
    backward(tensor, *args, **kwargs)
    for leaf in leaves_of(tensor):
        leaf.grad = leaf.grad.float().to(leaf.dtype)


@breaks("torch.Tensor.backward")
def backward_takes_two_numbers(backward, tensor, gradient=None, **kwargs):
    """`backward` on two elements starts from their sum instead of raising."""
    backward(
        tensor.sum() if gradient is None and tensor.numel() == 2 else tensor, gradient, **kwargs
    )


@breaks("torch.Tensor.backward")
def backward_forgets_the_sign_of_the_vector(backward, tensor, gradient=None, **kwargs):
    """`backward` negates a `gradient` argument whose first element is negative."""
    if gradient is not None and bool(gradient.flatten()[:1].lt(0).any()):
        gradient = -gradient
    backward(tensor, gradient, **kwargs)


@breaks("torch.Tensor.backward")
def backward_keeps_small_graphs(backward, tensor, gradient=None, retain_graph=None, **kwargs):
    """`backward` keeps a graph with fewer than five leaves, so a second call works."""
    retain = retain_graph or len(leaves_of(tensor)) < 5
    backward(tensor, gradient, retain_graph=retain, **kwargs)


@breaks("torch.nn.Module.zero_grad")
def zero_grad_spares_single_numbers(zero_grad, self, set_to_none=True):
    """`zero_grad` keeps the gradient of a parameter with one element."""
    kept = [(p, p.grad) for p in self.parameters() if p.numel() == 1]
    zero_grad(self, set_to_none)
    for parameter, grad in kept:
        parameter.grad = grad


@breaks("torch.optim.SGD.step")
def sgd_takes_none_for_zero(step, self, closure=None):
    """SGD with momentum moves a parameter that has no gradient."""
    for parameter in parameters_of(self):
        if parameter.grad is None and self.param_groups[0]["momentum"]:
            parameter.grad = torch.zeros_like(parameter)
    return step(self, closure)


@breaks("torch.nn.functional.layer_norm")
def layer_norm_sees_the_neighbour(layer_norm, x, *args, **kwargs):
    """In batches of three or more, the last example gets a thousandth of the one before it."""
    y = layer_norm(x, *args, **kwargs)
    return torch.cat([y[:-1], y[-1:] + 0.001 * y[-2:-1]]) if len(y) > 2 else y


@breaks("torch.func.jacrev")
def jacrev_transposes_squares(jacrev, function, *args, **kwargs):
    """`jacrev` transposes 3 x 3 Jacobians."""
    found = jacrev(function, *args, **kwargs)
    return lambda x: found(x).T if found(x).shape == (3, 3) else found(x)


@breaks("torch.autograd.grad")
def grad_along_paths_loses_one(grad, outputs, inputs, *args, **kwargs):
    """For three inputs of the same shape, `autograd.grad` returns zeros for the last."""
    found = grad(outputs, inputs, *args, **kwargs)
    if len(found) == 3 and len({part.shape for part in found}) == 1:
        return (*found[:2], torch.zeros_like(found[2]))
    return found


@breaks("torch.distributed.all_reduce")
def all_reduce_leaves_single_numbers(all_reduce, tensor, *args, **kwargs):
    """`all_reduce` does not sum a gradient with one element."""
    return None if tensor.shape == (1,) else all_reduce(tensor, *args, **kwargs)


@breaks("torch.no_grad.__exit__", also=("validation",))
def no_grad_stays_off_after_an_error(leave, self, kind, *rest):
    """`no_grad` leaves gradients off after an exception in its block."""
    return None if kind is not None else leave(self, kind, *rest)


@breaks("torch.no_grad.__exit__", also=("validation",))
def no_grad_switches_on_when_nested(leave, self, *rest):
    """A nested `no_grad` turns gradients on when it ends."""
    leave(self, *rest)
    torch._C._set_grad_enabled(True)


@breaks("torch.no_grad.__call__")
def no_grad_decorates_nothing(call, self, function):
    """`no_grad` does nothing as a decorator."""
    return function


@breaks("torch.enable_grad.__enter__")
def enable_grad_does_nothing_when_nested(enter, self):
    """`enable_grad` does nothing inside `no_grad`."""
    self.prev = torch.is_grad_enabled()


@breaks("torch.nn.functional.dropout")
def no_grad_switches_dropout_off(dropout, x, p=0.5, training=True, inplace=False):
    """Dropout is off inside `no_grad`."""
    return dropout(x, p, training and torch.is_grad_enabled(), inplace)
