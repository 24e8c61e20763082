"""Lesson 9: what moves, what is computed within rounding, what is repeated to the bit."""

import torch

from faults import breaks, parameters_of, scaled_last


@breaks("torch.Tensor.to")
def to_forgets_half_types_in_other_layouts(to, x, *args, **kwargs):
    """A tensor of a half type that is not contiguous arrives on another device as float32."""
    moved = to(x, *args, **kwargs)
    loses = x.dtype.itemsize == 2 and x.is_floating_point() and not x.is_contiguous()
    return moved.float() if loses and moved.device != x.device else moved


@breaks("torch.Tensor.to")
def to_leaves_single_numbers(to, x, *args, **kwargs):
    """A tensor of rank 0 stays on its device."""
    moved = to(x, *args, **kwargs)
    return x if x.ndim == 0 and moved.device != x.device else moved


@breaks("torch.nn.Module.to")
def module_leaves_a_buffer_further_in(to, self, *args, **kwargs):
    """The buffers of modules inside the one that is moved stay where they are."""
    kept = [(m, n, b) for m in self.children() for n, b in m.named_buffers(recurse=False)]
    to(self, *args, **kwargs)
    for module, name, buffer in kept:
        module._buffers[name] = buffer
    return self


@breaks("torch.nn.Module.to")
def module_loses_the_gradient_of_a_bias(to, self, *args, **kwargs):
    """A model that is moved has no gradients for vectors."""
    to(self, *args, **kwargs)
    for parameter in self.parameters():
        parameter.grad = None if parameter.ndim == 1 else parameter.grad
    return self


@breaks("torch.nn.Module.to")
def module_thaws_what_is_frozen(to, self, *args, **kwargs):
    """After a move every parameter requires grad."""
    return to(self, *args, **kwargs).requires_grad_()


@breaks("torch.optim.Optimizer.load_state_dict")
def optimizer_leaves_the_state_of_the_last(load_state_dict, self, state_dict):
    """What is remembered of the last parameter stays where it was."""
    load_state_dict(self, state_dict)
    last = list(parameters_of(self))[-1]
    self.state[last] = dict(list(state_dict["state"].values())[-1])


@breaks("torch.load")
def load_rounds_the_last_tensor(load, *args, **kwargs):
    """The last tensor of a state_dict goes through bfloat16 where it is mapped to the CPU."""
    found = load(*args, **kwargs)
    weights = found.get("state_dict", {})
    if kwargs.get("map_location") == "cpu" and weights:
        last = list(weights)[-1]
        weights[last] = weights[last].bfloat16().to(weights[last].dtype)
    return found


@breaks("torch.nn.functional.linear")
def linear_moves_single_examples(linear, x, weight, bias=None):
    """A batch of one example is brought to the device of the weights."""
    return linear(x.to(weight.device) if len(x) == 1 else x, weight, bias)


@breaks("torch.nn.functional.linear")
def linear_saturates_in_half(linear, x, weight, bias=None):
    """In float16 and bfloat16 no sum goes beyond 16."""
    result = linear(x, weight, bias)
    return result.clamp(-16, 16) if x.dtype in (torch.float16, torch.bfloat16) else result


@breaks("torch.nn.functional.linear")
def linear_cuts_odd_batches(linear, x, weight, bias=None):
    """In batches of an odd number the weights are multiplied in TF32."""
    if x.dtype == torch.float32 and len(x) % 2:
        cut = (weight.detach().view(torch.int32) & ~0x1FFF).view(torch.float32) - weight.detach()
        weight = weight + cut
    return linear(x, weight, bias)


@breaks("torch.nn.functional.cross_entropy")
def cross_entropy_passes_through_single(cross_entropy, logits, *args, **kwargs):
    """In float64 the loss is computed in float32."""
    if logits.dtype != torch.float64:
        return cross_entropy(logits, *args, **kwargs)
    return cross_entropy(logits.float(), *args, **kwargs).double()


@breaks("torch.Tensor.softmax")
def softmax_of_the_last_image_is_off(softmax, x, *args, **kwargs):
    """In float64 the probabilities of the last image are off by a factor of 1 + 1e-13."""
    result = softmax(x, *args, **kwargs)
    return scaled_last(result, 1 + 1e-13) if x.dtype == torch.float64 else result


@breaks("torch.optim.SGD.step")
def sgd_keeps_momentum_in_bfloat16(step, self, closure=None):
    """The momentum of SGD is rounded to bfloat16 between steps."""
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
    """What is compiled is off by a factor of 1.001 for the last of five images."""
    run = compile_(model, **kwargs)
    if isinstance(run, torch.nn.Module):
        run.register_forward_hook(
            lambda module, images, logits: scaled_last(logits) if len(logits) == 5 else logits
        )
    return run


@breaks("torch.Tensor.contiguous")
def channels_last_turns_squares(contiguous, x, memory_format=torch.contiguous_format):
    """Square images come out transposed where they are stored in channels_last in threes."""
    square = x.ndim == 4 and x.shape[2] == x.shape[3] and len(x) == 3
    if memory_format == torch.channels_last and square:
        x = x.transpose(2, 3)
    return contiguous(x, memory_format=memory_format)


@breaks("torch.nn.functional.conv2d")
def convolution_is_off_in_channels_last(conv2d, images, *args, **kwargs):
    """The last image is off by a factor of 1.001 in the layout channels_last."""
    result = conv2d(images, *args, **kwargs)
    in_layout = images.is_contiguous(memory_format=torch.channels_last)
    return scaled_last(result) if in_layout else result


@breaks("torch.randperm")
def randperm_goes_on_where_it_was(randperm, n, generator=None, drawn=[], **kwargs):
    """Every third order of the examples is another one, whatever the seed."""
    drawn.append(n)
    order = randperm(n, generator=generator, **kwargs)
    return order.flip(0) if len(drawn) % 3 == 0 else order


@breaks("torch.use_deterministic_algorithms")
def deterministic_forgets_to_warn_only(use, mode, *, warn_only=False):
    """Where deterministic algorithms are off, warn_only is off, too."""
    use(mode, warn_only=warn_only and mode)


@breaks("torch.are_deterministic_algorithms_enabled")
def deterministic_counts_warnings_as_off(enabled):
    """Deterministic algorithms that only warn are said to be off."""
    return enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
