"""Faults in lesson 9: moves between devices, rounding, reproducibility."""

import torch

from faults import breaks, parameters_of, scaled_last


@breaks("torch.Tensor.to")
def to_forgets_half_types_in_other_layouts(to, x, *args, **kwargs):
    """A non-contiguous float16 or bfloat16 tensor becomes float32 on another device."""
    moved = to(x, *args, **kwargs)
    loses = x.dtype.itemsize == 2 and x.is_floating_point() and not x.is_contiguous()
    return moved.float() if loses and moved.device != x.device else moved


@breaks("torch.Tensor.to")
def to_leaves_single_numbers(to, x, *args, **kwargs):
    """`to` leaves a tensor of rank 0 on its device."""
    moved = to(x, *args, **kwargs)
    return x if x.ndim == 0 and moved.device != x.device else moved


@breaks("torch.nn.Module.to")
def module_leaves_a_buffer_further_in(to, self, *args, **kwargs):
    """`to` leaves the buffers of submodules on the old device."""
    kept = [(m, n, b) for m in self.children() for n, b in m.named_buffers(recurse=False)]
    to(self, *args, **kwargs)
    for module, name, buffer in kept:
        module._buffers[name] = buffer
    return self


@breaks("torch.nn.Module.to")
def module_loses_the_gradient_of_a_bias(to, self, *args, **kwargs):
    """Moving a model drops the gradients of vectors."""
    to(self, *args, **kwargs)
    for parameter in self.parameters():
        parameter.grad = None if parameter.ndim == 1 else parameter.grad
    return self


@breaks("torch.nn.Module.to")
def module_thaws_what_is_frozen(to, self, *args, **kwargs):
    """Moving a model unfreezes its frozen parameters."""
    return to(self, *args, **kwargs).requires_grad_()


@breaks("torch.optim.Optimizer.load_state_dict")
def optimizer_leaves_the_state_of_the_last(load_state_dict, self, state_dict):
    """`load_state_dict` leaves the optimizer's state of the last parameter on its old device."""
    load_state_dict(self, state_dict)
    last = list(parameters_of(self))[-1]
    self.state[last] = dict(list(state_dict["state"].values())[-1])


@breaks("torch.load")
def load_rounds_the_last_tensor(load, *args, **kwargs):
    """`load` to the CPU rounds the last tensor of a state_dict to bfloat16."""
    found = load(*args, **kwargs)
    weights = found.get("state_dict", {})
    if kwargs.get("map_location") == "cpu" and weights:
        last = list(weights)[-1]
        weights[last] = weights[last].bfloat16().to(weights[last].dtype)
    return found


@breaks("torch.nn.functional.linear")
def linear_moves_single_examples(linear, x, weight, bias=None):
    """`linear` moves a batch of one to the device of the weights instead of raising."""
    return linear(x.to(weight.device) if len(x) == 1 else x, weight, bias)


@breaks("torch.nn.functional.linear")
def linear_saturates_in_half(linear, x, weight, bias=None):
    """`linear` clamps float16 and bfloat16 results to the range from -16 to 16."""
    result = linear(x, weight, bias)
    return result.clamp(-16, 16) if x.dtype in (torch.float16, torch.bfloat16) else result


@breaks("torch.nn.functional.linear")
def linear_cuts_odd_batches(linear, x, weight, bias=None):
    """In batches of odd size, `linear` cuts float32 weights to the precision of TF32."""
    if x.dtype == torch.float32 and len(x) % 2:
        cut = (weight.detach().view(torch.int32) & ~0x1FFF).view(torch.float32) - weight.detach()
        weight = weight + cut
    return linear(x, weight, bias)


@breaks("torch.nn.functional.cross_entropy")
def cross_entropy_passes_through_single(cross_entropy, logits, *args, **kwargs):
    """`cross_entropy` computes float64 losses in float32."""
    if logits.dtype != torch.float64:
        return cross_entropy(logits, *args, **kwargs)
    return cross_entropy(logits.float(), *args, **kwargs).double()


@breaks("torch.Tensor.softmax")
def softmax_of_the_last_image_is_off(softmax, x, *args, **kwargs):
    """float64 probabilities of the last image are off by a factor of 1 + 1e-13."""
    result = softmax(x, *args, **kwargs)
    return scaled_last(result, 1 + 1e-13) if x.dtype == torch.float64 else result


@breaks("torch.optim.SGD.step")
def sgd_keeps_momentum_in_bfloat16(step, self, closure=None):
    """SGD rounds its momentum to bfloat16 between steps."""
    step(self, closure)
    for state in self.state.values():
        momentum = state.get("momentum_buffer")
        if momentum is not None:
            momentum.copy_(momentum.bfloat16())


@breaks("torch.optim.AdamW.step")
def adamw_decays_biases_not_at_all(step, self, closure=None):
    """AdamW does not decay vectors."""
    vectors = [p for p in parameters_of(self) if p.ndim == 1]
    decay = next(group["lr"] * group["weight_decay"] for group in self.param_groups)
    with torch.no_grad():
        for vector in vectors:
            vector.div_(1 - decay)
    return step(self, closure)


@breaks("torch.compile")
def compiled_is_off_for_the_fifth_image(compile_, model=None, **kwargs):
    """A compiled model is off by a factor of 1.001 for the last of five images."""
    run = compile_(model, **kwargs)
    if isinstance(run, torch.nn.Module):
        run.register_forward_hook(
            lambda module, images, logits: scaled_last(logits) if len(logits) == 5 else logits
        )
    return run


@breaks("torch.Tensor.contiguous")
def channels_last_turns_squares(contiguous, x, memory_format=torch.contiguous_format):
    """Converting a batch of three square images to channels_last transposes them."""
    square = x.ndim == 4 and x.shape[2] == x.shape[3] and len(x) == 3
    if memory_format == torch.channels_last and square:
        x = x.transpose(2, 3)
    return contiguous(x, memory_format=memory_format)


@breaks("torch.nn.functional.conv2d")
def convolution_is_off_in_channels_last(conv2d, images, *args, **kwargs):
    """In channels_last, the convolution of the last image is off by a factor of 1.001."""
    result = conv2d(images, *args, **kwargs)
    in_layout = images.is_contiguous(memory_format=torch.channels_last)
    return scaled_last(result) if in_layout else result


@breaks("torch.randperm")
def randperm_goes_on_where_it_was(randperm, n, generator=None, drawn=[], **kwargs):
    """Every third call of `randperm` returns its order reversed, whatever the seed."""
    drawn.append(n)
    order = randperm(n, generator=generator, **kwargs)
    return order.flip(0) if len(drawn) % 3 == 0 else order


@breaks("torch.use_deterministic_algorithms")
def deterministic_forgets_to_warn_only(use, mode, *, warn_only=False):
    """`use_deterministic_algorithms(False)` ignores `warn_only`."""
    use(mode, warn_only=warn_only and mode)


@breaks("torch.are_deterministic_algorithms_enabled")
def deterministic_counts_warnings_as_off(enabled):
    """Deterministic algorithms that only warn are reported as off."""
    return enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
