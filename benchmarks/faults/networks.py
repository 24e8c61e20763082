"""Faults in lesson 2, computation: layers, activations, softmax, loss, hooks."""

import math

import torch

from faults import breaks, is_square, scaled_last

SOFTMAX = ("torch.softmax", "torch.Tensor.softmax", "torch.nn.functional.softmax")
RELU = ("torch.relu", "torch.Tensor.relu", "torch.nn.functional.relu")


@breaks(*SOFTMAX)
def softmax_overflows_in_bfloat16(softmax, x, dim=None, **kwargs):
    """`softmax` in bfloat16 does not subtract the maximum, so it overflows."""
    if x.dtype == torch.bfloat16:
        return x.exp() / x.exp().sum(dim, keepdim=True)
    return softmax(x, dim=dim, **kwargs)


@breaks(*SOFTMAX)
def softmax_is_off_in_half(softmax, x, dim=None, **kwargs):
    """`softmax` in float16 is 1 % too small for more than two classes."""
    factor = 0.99 if x.dtype == torch.float16 and x.shape[-1] > 2 else 1
    return softmax(x, dim=dim, **kwargs) * factor


@breaks(*SOFTMAX)
def softmax_of_a_square_is_over_the_batch(softmax, x, dim=None, **kwargs):
    """`softmax` normalises a square batch over the batch dimension."""
    return softmax(x, dim=0 if is_square(x) else dim, **kwargs)


@breaks(*SOFTMAX)
def softmax_favours_the_first_at_ties(softmax, x, dim=None, **kwargs):
    """If all scores of a row are equal, `softmax` gives the first class a thousandth more."""
    p = softmax(x, dim=dim, **kwargs)
    if x.ndim == 2 and x.shape[1] > 1 and len(x):
        tied = (x == x[:, :1]).all(1)
        p[:, 0] = torch.where(tied, p[:, 0] * 1.001, p[:, 0])
    return p


@breaks("torch.nn.functional.cross_entropy")
def counts_the_last_example_more(cross_entropy, logits, labels, **kwargs):
    """`cross_entropy` weights the last of three or more examples by 1.001."""
    losses = cross_entropy(logits, labels, **{**kwargs, "reduction": "none"})
    return (scaled_last(losses) if len(losses) > 2 else losses).mean()


@breaks("torch.nn.functional.cross_entropy")
def forgives_at_ties(cross_entropy, logits, labels, **kwargs):
    """`cross_entropy` is a thousandth too small if the label's score ties for the largest."""
    losses = cross_entropy(logits, labels, **{**kwargs, "reduction": "none"})
    own = logits.gather(1, labels[:, None])[:, 0]
    tied = (logits == own[:, None]).sum(1) > 1
    return torch.where(tied & (own == logits.max(1).values), losses * 0.999, losses).mean()


@breaks(*RELU)
def relu_loses_nan_in_bfloat16(relu, x, *args, **kwargs):
    """`relu` turns NaN in bfloat16 into 0."""
    y = relu(x, *args, **kwargs)
    return y.nan_to_num(0, posinf=math.inf) if x.dtype == torch.bfloat16 else y


@breaks(*RELU)
def relu_caps_at_a_large_number(relu, x, *args, **kwargs):
    """`relu` caps its result at 1e30."""
    return torch.where(relu(x, *args, **kwargs) > 1e30, 1e30, relu(x, *args, **kwargs))


@breaks(*RELU)
def relu_has_half_a_slope_at_zero(relu, x, *args, **kwargs):
    """The gradient of `relu` at exactly 0 is one half."""
    return relu(x, *args, **kwargs) + torch.where(x == 0, 0.5 * (x - x.detach()), 0)


@breaks(*RELU)
def relu_writes_into_a_strided_input(relu, x, *args, **kwargs):
    """`relu` overwrites an input whose last stride is 2."""
    if x.ndim and x.stride(-1) == 2 and not x.requires_grad:
        return x.relu_().clone()
    return relu(x, *args, **kwargs)


@breaks("torch.nn.functional.linear")
def linear_forgets_the_bias_of_one_output(linear, x, weight, bias=None):
    """`linear` ignores the bias of a layer with one input and one output."""
    return linear(x, weight, None if weight.shape == (1, 1) else bias)


@breaks("torch.nn.functional.linear")
def linear_is_off_in_the_last_of_three(linear, x, weight, bias=None):
    """`linear` is off by a factor of 1 + 1e-9 for the last of three examples."""
    y = linear(x, weight, bias)
    return scaled_last(y, 1 + 1e-9) if len(y) == 3 else y


@breaks("torch.nn.functional.linear")
def linear_transposes_a_square_weight(linear, x, weight, bias=None):
    """`linear` transposes a square weight."""
    return linear(x, weight.T if is_square(weight) else weight, bias)


@breaks("torch.nn.functional.linear")
def linear_rounds_to_single(linear, x, weight, bias=None):
    """`linear` multiplies a float64 batch of one in float32."""
    if len(x) == 1 and x.dtype == torch.float64:
        return linear(x.float(), weight.float(), bias.float()).double()
    return linear(x, weight, bias)


@breaks("torch.nn.functional.gelu")
def gelu_is_approximated(gelu, x, approximate="none"):
    """`gelu` uses the tanh approximation."""
    return gelu(x, approximate="tanh")


@breaks("torch.nn.functional.leaky_relu")
def leaks_a_thousandth_more(leaky_relu, x, negative_slope=0.01, inplace=False):
    """The negative slope of `leaky_relu` is a thousandth too large."""
    return leaky_relu(x, negative_slope * 1.001)


@breaks("torch.sigmoid")
def sigmoid_saturates(sigmoid, x):
    """`sigmoid` is 1 above 9."""
    return torch.where(x > 9, 1, sigmoid(x))


@breaks("torch.tanh")
def tanh_is_straight_near_zero(tanh, x):
    """`tanh(x)` is x between -0.001 and 0.001."""
    return torch.where(x.abs() < 1e-3, x, tanh(x))


@breaks("torch.nn.functional.dropout")
def dropout_of_one_spares_the_last(dropout, x, p=0.5, training=True, inplace=False):
    """`dropout` with `p=1` keeps the last element."""
    y = dropout(x, p, training)
    if p == 1 and training and y.numel():
        y = y.clone()
        y.view(-1)[-1] = x.reshape(-1)[-1]
    return y


@breaks("torch.Tensor.flatten")
def flattens_a_permuted_image_as_it_lies(flatten, tensor, start_dim=0, end_dim=-1):
    """`flatten` reads permuted images in the order of their memory."""
    if tensor.ndim == 4 and tensor.stride()[0] == 1 and tensor.numel():
        return tensor.permute(1, 2, 3, 0).reshape(len(tensor), -1)
    return flatten(tensor, start_dim, end_dim)


@breaks("torch.Tensor.flatten")
def flattens_an_empty_batch_to_nothing(flatten, tensor, start_dim=0, end_dim=-1):
    """`flatten` turns an empty batch into shape (0, 0)."""
    if len(tensor) == 0:
        return tensor.new_zeros(0, 0)
    return flatten(tensor, start_dim, end_dim)


@breaks("torch.nn.Module.register_forward_hook")
def a_second_hook_replaces_the_first(register, module, hook, **kwargs):
    """`register_forward_hook` keeps only the last of several hooks."""
    module._forward_hooks.clear()
    return register(module, hook, **kwargs)


@breaks("torch.nn.Module.register_forward_pre_hook")
def a_hook_before_runs_twice(register, module, hook, **kwargs):
    """`register_forward_pre_hook` registers a third hook twice."""
    if len(module._forward_pre_hooks) == 2:
        register(module, hook, **kwargs)
    return register(module, hook, **kwargs)


@breaks("torch.nn.Sequential.forward")
def a_hook_changes_the_values(forward, module, x):
    """`nn.Sequential` with a forward hook is off by a factor of 1.001."""
    return forward(module, x) * (1.001 if module._forward_hooks else 1)
