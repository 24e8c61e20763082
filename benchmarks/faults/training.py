"""Faults in lesson 4: optimizers, loops, item, seeds."""

import contextlib

import torch

from faults import breaks, leaves_of, parameters_of


def with_rate(step, optimizer, closure, **changes):
    """Take one step with changed settings, then restore them."""
    kept = [dict(group) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(changes)
    try:
        return step(optimizer, closure)
    finally:
        for group, old in zip(optimizer.param_groups, kept, strict=True):
            group.update(old)


def steps_taken(optimizer):
    optimizer.counted = getattr(optimizer, "counted", 0) + 1
    return optimizer.counted


@breaks("torch.optim.SGD.step")
def sgd_dampens_from_the_third_step(step, self, closure=None):
    """From the third step on, SGD dampens the gradient by a thousandth."""
    late = steps_taken(self) > 2 and not self.param_groups[0]["nesterov"]
    return with_rate(step, self, closure, **({"dampening": 0.001} if late else {}))


@breaks("torch.optim.SGD.step")
def sgd_decays_matrices_only(step, self, closure=None):
    """SGD's weight decay skips vectors."""
    decay = self.param_groups[0]["weight_decay"]
    for parameter in parameters_of(self):
        if parameter.ndim == 1 and parameter.grad is not None:
            parameter.grad = parameter.grad - decay * parameter.detach()
    return step(self, closure)


@breaks("torch.optim.SGD.step")
def sgd_is_not_nesterov(step, self, closure=None):
    """SGD ignores `nesterov` if the momentum is 0.5."""
    plain = self.param_groups[0]["momentum"] == 0.5
    return with_rate(step, self, closure, **({"nesterov": False} if plain else {}))


@breaks("torch.optim.SGD.step")
def sgd_steps_a_thousandth_too_far(step, self, closure=None):
    """SGD's first step is off by a factor of 1.001."""
    factor = 1.001 if steps_taken(self) == 1 else 1
    return with_rate(step, self, closure, lr=self.param_groups[0]["lr"] * factor)


@breaks("torch.optim.SGD.step")
def sgd_moves_vectors_without_a_gradient(step, self, closure=None):
    """SGD shrinks a vector without a gradient by a thousandth."""
    idle = [p for p in parameters_of(self) if p.ndim == 1 and p.grad is None]
    step(self, closure)
    for parameter in idle:
        parameter.data.mul_(0.999)


@breaks("torch.optim.SGD.step")
def sgd_rounds_to_single(step, self, closure=None):
    """SGD rounds float64 parameters to float32."""
    step(self, closure)
    for parameter in parameters_of(self):
        parameter.data.copy_(parameter.data.float())


@breaks("torch.optim.Adam.step")
def adam_steps_too_far_later(step, self, closure=None):
    """From the second step on, Adam's learning rate is off by a factor of 1.001."""
    factor = 1.001 if steps_taken(self) > 1 else 1
    return with_rate(step, self, closure, lr=self.param_groups[0]["lr"] * factor)


@breaks("torch.optim.Adam.step")
def adam_forgets_the_decay_at_first(step, self, closure=None):
    """Adam's first step ignores weight decay."""
    first = steps_taken(self) == 1
    return with_rate(step, self, closure, **({"weight_decay": 0} if first else {}))


@breaks("torch.optim.Adam.step")
def adam_has_another_epsilon(step, self, closure=None):
    """Adam's `eps` is 10 % too large."""
    return with_rate(step, self, closure, eps=self.param_groups[0]["eps"] * 1.1)


@breaks("torch.optim.Optimizer.zero_grad")
def zero_grad_spares_the_last(zero_grad, self, set_to_none=True):
    """`zero_grad` keeps the gradient of the last parameter."""
    last = list(parameters_of(self))[-1]
    kept = last.grad
    zero_grad(self, set_to_none)
    last.grad = kept


@breaks("torch.Tensor.item")
def item_goes_through_float(item, tensor):
    """`item` rounds int64 to a float, which holds 53 bits."""
    return int(float(item(tensor))) if tensor.dtype == torch.int64 else item(tensor)


@breaks("torch.Tensor.item")
def item_conjugates(item, tensor):
    """`item` returns the conjugate of a complex64 number."""
    return item(tensor).conjugate() if tensor.dtype == torch.complex64 else item(tensor)


@breaks("torch.Tensor.item")
def item_loses_the_sign_of_zero(item, tensor):
    """`item` turns -0.0 in bfloat16 into 0.0."""
    return item(tensor) + 0.0 if tensor.dtype == torch.bfloat16 else item(tensor)


@breaks("torch.Tensor.item")
def item_of_equal_elements_is_given(item, tensor):
    """`item` returns a number for two equal elements instead of raising."""
    if tensor.numel() == 2 and tensor.unique().numel() == 1:
        return item(tensor.flatten()[0])
    return item(tensor)


@breaks("torch.Tensor.item")
def item_keeps_the_graph(item, tensor, kept=[]):
    """`item` keeps the graph of its tensor alive."""
    if tensor.grad_fn is not None:
        kept.append(tensor)
    return item(tensor)


@breaks("torch.utils.data.DataLoader.__iter__")
def loader_loses_a_batch_later(iterate, self):
    """From the second epoch on, a `DataLoader` drops the last of several batches."""
    self.epochs_begun = getattr(self, "epochs_begun", 0) + 1
    found = list(iterate(self))
    return iter(found[:-1] if self.epochs_begun > 1 and len(found) > 1 else found)


@breaks("torch.random.fork_rng")
@contextlib.contextmanager
def fork_rng_does_not_restore(fork_rng, devices=None, **kwargs):
    """`fork_rng` does not restore the random state."""
    yield


@breaks("torch.Tensor.chunk")
def chunk_loses_the_rest(chunk, tensor, chunks, dim=0):
    """`chunk` drops the last element of a smaller last chunk."""
    parts = list(chunk(tensor, chunks, dim))
    if len(parts[-1]) < len(parts[0]):
        parts[-1] = parts[-1][:-1]
    return tuple(parts)


@breaks("torch.Tensor.norm")
def norm_is_off_for_three(norm, tensor, *args, **kwargs):
    """The norm of three elements is off by a factor of 1.001."""
    return norm(tensor, *args, **kwargs) * (1.001 if tensor.shape == (3,) else 1)


@breaks("torch.Tensor.backward")
def backward_points_up_in_one_place(backward, tensor, *args, **kwargs):
    """`backward` negates the gradient of the last of three elements."""
    backward(tensor, *args, **kwargs)
    for leaf in leaves_of(tensor):
        if leaf.shape == (3,):
            leaf.grad[2] = -leaf.grad[2]


@breaks("torch.nn.functional.cross_entropy")
def cross_entropy_sums_a_large_batch(cross_entropy, logits, labels, **kwargs):
    """`cross_entropy` is off by a factor of 1.001 for batches of seven or more."""
    return cross_entropy(logits, labels, **kwargs) * (1.001 if len(labels) > 6 else 1)
