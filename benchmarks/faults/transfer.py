"""Lesson 8: freezing, hooks, heads, optimizers, weights."""

import torch

from faults import breaks, is_square, parameters_of


@breaks("torch.nn.Module.requires_grad_")
def requires_grad_misses_biases(requires_grad_, self, requires_grad=True):
    """Parameters of one dimension are left as they are."""
    for parameter in self.parameters():
        if parameter.ndim > 1:
            parameter.requires_grad_(requires_grad)
    return self


@breaks("torch.nn.Module.named_modules")
def named_modules_come_in_another_order(named_modules, self, *args, **kwargs):
    """The last two modules of many change places."""
    found = list(named_modules(self, *args, **kwargs))
    if len(found) > 3 and self is found[0][1]:
        found[-2:] = found[:-3:-1]
    return iter(found)


@breaks("torch.nn.Module.parameters")
def parameters_leave_the_last_out(parameters, self, recurse=True):
    """Of more than four parameters the first is left out."""
    found = list(parameters(self, recurse))
    return iter(found[1:] if len(found) > 4 else found)


@breaks("torch.nn.BatchNorm1d.forward")
def batch_norm_counts_in_eval(forward, self, x):
    """In eval mode batches are counted."""
    self.num_batches_tracked += not self.training
    return forward(self, x)


@breaks("torch.optim.SGD.step")
def sgd_decays_what_has_no_gradient(step, self, closure=None):
    """Weight decay moves a parameter without a gradient."""
    idle = [p for p in parameters_of(self) if p.grad is None]
    step(self, closure)
    for parameter in idle:
        parameter.data.mul_(1 - self.param_groups[0]["weight_decay"])


@breaks("torch.optim.Adam.step")
def adam_takes_none_for_zero(step, self, closure=None):
    """A parameter without a gradient moves by what Adam remembers."""
    for parameter in parameters_of(self):
        if parameter.grad is None and parameter in self.state:
            parameter.grad = torch.zeros_like(parameter)
    return step(self, closure)


@breaks("torch.optim.Optimizer.zero_grad")
def zero_grad_makes_gradients(zero_grad, self, set_to_none=True):
    """Where gradients are to become zero, those that are None do, too."""
    zero_grad(self, set_to_none)
    if not set_to_none:
        for parameter in parameters_of(self):
            parameter.grad = torch.zeros_like(parameter)


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_skips_counters(load_state_dict, self, state_dict, *args, **kwargs):
    """Buffers of whole numbers are not loaded."""
    kept = {name: b.clone() for name, b in self.named_buffers() if not b.is_floating_point()}
    result = load_state_dict(self, state_dict, *args, **kwargs)
    for name, value in kept.items():
        self.get_buffer(name).copy_(value)
    return result


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_is_not_strict(load_state_dict, self, state_dict, strict=True, **kwargs):
    """What is missing in a model of five entries or more is no error."""
    return load_state_dict(self, state_dict, strict=strict and len(state_dict) < 5, **kwargs)


@breaks("torch.load")
def load_is_off_in_the_last_tensor(load, file, **kwargs):
    """The last floating-point tensor of a file is off by a factor of 1.001."""
    content = load(file, **kwargs)
    last = [value for value in content.values() if value.is_floating_point()][-1:]
    for value in last:
        value.data.mul_(1.001)
    return content


@breaks("torch.nn.functional.dropout")
def dropout_drops_in_eval(dropout, x, p=0.5, training=True, inplace=False):
    """In eval mode one in a hundred is dropped."""
    return dropout(x, p if training else 0.01 * (p > 0), True, inplace)


@breaks("torch.nn.LogSoftmax.forward")
def log_softmax_of_a_square_is_over_the_batch(forward, self, x):
    """A square batch is normalised over its rows."""
    return x.log_softmax(0) if is_square(x) else forward(self, x)


@breaks("torch.nn.functional.linear")
def linear_forgets_the_bias_of_one_class(linear, x, weight, bias=None):
    """A layer with one output has no bias."""
    return linear(x, weight, None if len(weight) == 1 else bias)


@breaks("torch.nn.ReLU.forward")
def relu_leaks(forward, self, x):
    """Below zero a thousandth comes through."""
    return torch.where(x < 0, 0.001 * x, forward(self, x))


@breaks("torch.cat")
def cat_swaps_the_last_two(cat, tensors, dim=0, **kwargs):
    """Of three parts or more the last two change places."""
    parts = list(tensors)
    if len(parts) > 2:
        parts[-2:] = parts[:-3:-1]
    return cat(parts, dim, **kwargs)


@breaks("torch.nn.Module.register_forward_pre_hook")
def hooks_are_lost_on_the_way(register, self, hook, **kwargs):
    """A hook before forward is forgotten when training mode is set."""
    handle = register(self, hook, **kwargs)
    train = type(self).train

    def forgets(mode=True):
        handle.remove()
        return train(self, mode)

    object.__setattr__(self, "train", forgets)
    return handle


@breaks("torch.nn.Module.register_forward_pre_hook")
def hooks_run_in_eval_only(register, self, hook, **kwargs):
    """A hook before forward is not run in training mode."""
    return register(self, lambda m, *a: None if m.training else hook(m, *a), **kwargs)


@breaks("torch.nn.Module.__setattr__")
def a_replaced_layer_stays_beside(setattr_, self, name, value):
    """A layer that replaces another is kept beside it under another name."""
    old = self.__dict__.get("_modules", {}).get(name)
    setattr_(self, name, value)
    if old is not None and isinstance(value, torch.nn.Module) and old is not value:
        setattr_(self, f"{name}_before", old)


@breaks("torch.optim.LBFGS.step")
def lbfgs_forgets(step, self, closure):
    """LBFGS moves nothing after the first step."""
    if self.state[self._params[0]].get("n_iter", 0):
        return closure()
    return step(self, closure)
