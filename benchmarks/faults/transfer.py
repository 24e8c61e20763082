"""Faults in lesson 8: freezing, hooks, heads, optimizers, weights."""

import torch

from faults import breaks, is_square, parameters_of


@breaks("torch.nn.Module.requires_grad_")
def requires_grad_misses_biases(requires_grad_, self, requires_grad=True):
    """`requires_grad_` on a module skips vectors."""
    for parameter in self.parameters():
        if parameter.ndim > 1:
            parameter.requires_grad_(requires_grad)
    return self


@breaks("torch.nn.Module.named_modules")
def named_modules_come_in_another_order(named_modules, self, *args, **kwargs):
    """`named_modules` swaps the last two of more than three modules."""
    found = list(named_modules(self, *args, **kwargs))
    if len(found) > 3 and self is found[0][1]:
        found[-2:] = found[:-3:-1]
    return iter(found)


@breaks("torch.nn.Module.parameters")
def parameters_leave_the_last_out(parameters, self, recurse=True):
    """`parameters` omits the first of more than four parameters."""
    found = list(parameters(self, recurse))
    return iter(found[1:] if len(found) > 4 else found)


@breaks("torch.nn.BatchNorm1d.forward")
def batch_norm_counts_in_eval(forward, self, x):
    """`nn.BatchNorm1d` counts batches in eval mode."""
    self.num_batches_tracked += not self.training
    return forward(self, x)


@breaks("torch.optim.SGD.step")
def sgd_decays_what_has_no_gradient(step, self, closure=None):
    """SGD's weight decay moves a parameter that has no gradient."""
    idle = [p for p in parameters_of(self) if p.grad is None]
    step(self, closure)
    for parameter in idle:
        parameter.data.mul_(1 - self.param_groups[0]["weight_decay"])


@breaks("torch.optim.Adam.step")
def adam_takes_none_for_zero(step, self, closure=None):
    """Adam's running averages move a parameter that has no gradient."""
    for parameter in parameters_of(self):
        if parameter.grad is None and parameter in self.state:
            parameter.grad = torch.zeros_like(parameter)
    return step(self, closure)


@breaks("torch.optim.Optimizer.zero_grad")
def zero_grad_makes_gradients(zero_grad, self, set_to_none=True):
    """`zero_grad(set_to_none=False)` turns missing gradients into zeros."""
    zero_grad(self, set_to_none)
    if not set_to_none:
        for parameter in parameters_of(self):
            parameter.grad = torch.zeros_like(parameter)


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_skips_counters(load_state_dict, self, state_dict, *args, **kwargs):
    """`load_state_dict` does not load integer buffers."""
    kept = {name: b.clone() for name, b in self.named_buffers() if not b.is_floating_point()}
    result = load_state_dict(self, state_dict, *args, **kwargs)
    for name, value in kept.items():
        self.get_buffer(name).copy_(value)
    return result


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_is_not_strict(load_state_dict, self, state_dict, strict=True, **kwargs):
    """`load_state_dict` is not strict for five or more entries."""
    return load_state_dict(self, state_dict, strict=strict and len(state_dict) < 5, **kwargs)


@breaks("torch.load")
def load_is_off_in_the_last_tensor(load, file, **kwargs):
    """`load` is off by a factor of 1.001 in the last floating-point tensor."""
    content = load(file, **kwargs)
    last = [value for value in content.values() if value.is_floating_point()][-1:]
    for value in last:
        value.data.mul_(1.001)
    return content


@breaks("torch.nn.functional.dropout")
def dropout_drops_in_eval(dropout, x, p=0.5, training=True, inplace=False):
    """Dropout drops one element in a hundred in eval mode."""
    return dropout(x, p if training else 0.01 * (p > 0), True, inplace)


@breaks("torch.nn.LogSoftmax.forward")
def log_softmax_of_a_square_is_over_the_batch(forward, self, x):
    """`nn.LogSoftmax` normalises a square batch over the batch dimension."""
    return x.log_softmax(0) if is_square(x) else forward(self, x)


@breaks("torch.nn.functional.linear")
def linear_forgets_the_bias_of_one_class(linear, x, weight, bias=None):
    """`linear` ignores the bias of a layer with one output."""
    return linear(x, weight, None if len(weight) == 1 else bias)


@breaks("torch.nn.ReLU.forward")
def relu_leaks(forward, self, x):
    """`nn.ReLU` lets a thousandth of negative inputs through."""
    return torch.where(x < 0, 0.001 * x, forward(self, x))


@breaks("torch.cat")
def cat_swaps_the_last_two(cat, tensors, dim=0, **kwargs):
    """`cat` swaps the last two of three or more tensors."""
    parts = list(tensors)
    if len(parts) > 2:
        parts[-2:] = parts[:-3:-1]
    return cat(parts, dim, **kwargs)


@breaks("torch.nn.Module.register_forward_pre_hook")
def hooks_are_lost_on_the_way(register, self, hook, **kwargs):
    """A forward pre-hook is lost when the training mode is set."""
    handle = register(self, hook, **kwargs)
    train = type(self).train

    def forgets(mode=True):
        handle.remove()
        return train(self, mode)

    object.__setattr__(self, "train", forgets)
    return handle


@breaks("torch.nn.Module.register_forward_pre_hook")
def hooks_run_in_eval_only(register, self, hook, **kwargs):
    """A forward pre-hook does not run in training mode."""
    return register(self, lambda m, *a: None if m.training else hook(m, *a), **kwargs)


@breaks("torch.nn.Module.__setattr__")
def a_replaced_layer_stays_beside(setattr_, self, name, value):
    """A replaced layer stays in the module under another name."""
    old = self.__dict__.get("_modules", {}).get(name)
    setattr_(self, name, value)
    if old is not None and isinstance(value, torch.nn.Module) and old is not value:
        setattr_(self, f"{name}_before", old)


@breaks("torch.optim.LBFGS.step")
def lbfgs_forgets(step, self, closure):
    """LBFGS does nothing after its first step."""
    if self.state[self._params[0]].get("n_iter", 0):
        return closure()
    return step(self, closure)
