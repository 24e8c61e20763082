"""Faults in lesson 2, modules: layers, parameters, initialisation, Sequential."""

import torch

from faults import breaks, is_square, parameters_of, with_slope


@breaks("torch.nn.LogSoftmax.forward")
def module_normalises_a_square_by_columns(forward, self, x):
    """`nn.LogSoftmax` normalises a square batch over the wrong dimension."""
    return x.log_softmax(1 - self.dim) if is_square(x) else forward(self, x)


@breaks("torch.nn.NLLLoss.forward")
def module_sums_where_none_was_asked(forward, self, x, labels):
    """The last loss of `nn.NLLLoss` without reduction is off by a factor of 1.001."""
    losses = forward(self, x, labels)
    if self.reduction == "none":
        losses = torch.cat([losses[:-1], losses[-1:] * 1.001])
    return losses


@breaks("torch.nn.PReLU.forward")
def module_does_not_learn_in_eval(forward, self, x):
    """The weight of `nn.PReLU` gets no gradient in eval mode."""
    if self.training:
        return forward(self, x)
    return torch.nn.functional.prelu(x, self.weight.detach())


@breaks("torch.nn.GELU.forward")
def module_has_a_steeper_slope(forward, self, x):
    """The gradient of `nn.GELU` is off by a factor of 1.001 in batches of three."""
    return with_slope(forward(self, x), 1.001 if len(x) == 3 else 1)


@breaks("torch.nn.Softmax.forward")
def module_rounds_to_single(forward, self, x):
    """`nn.Softmax` computes in float32 in eval mode."""
    return forward(self, x) if self.training else forward(self, x.float()).double()


@breaks("torch.nn.Module.__setattr__")
def hides_private_layers(setattr_, self, name, value):
    """A module does not register a layer whose name starts with an underscore."""
    if name[0] == "_" and isinstance(value, torch.nn.Module):
        object.__setattr__(self, name, value)
    else:
        setattr_(self, name, value)


@breaks("torch.nn.Module.named_parameters")
def lists_a_third_layer_first(named_parameters, self, *args, **kwargs):
    """`named_parameters` lists the last layer first if there are more than two."""
    found = list(named_parameters(self, *args, **kwargs))
    return iter([*found[-2:], *found[:-2]] if len(found) > 4 else found)


@breaks("torch.nn.Module.to")
def leaves_the_last_bias_in_single(to, self, *args, **kwargs):
    """`to(torch.float16)` leaves the last parameter in float32."""
    result = to(self, *args, **kwargs)
    last = list(self.parameters())[-1]
    if torch.float16 in args:
        last.data = last.data.float()
    return result


@breaks("torch.nn.Module.state_dict")
def leaves_the_last_of_many_out(state_dict, self, *args, **kwargs):
    """`state_dict` omits the last of more than four entries."""
    found = state_dict(self, *args, **kwargs)
    if len(found) > 4:
        found.popitem()
    return found


@breaks("torch.nn.Module.load_state_dict")
def does_not_load_the_last(load_state_dict, self, state_dict, **kwargs):
    """`load_state_dict` does not load the last parameter."""
    last = list(self.parameters())[-1]
    kept = last.detach().clone()
    result = load_state_dict(self, state_dict, **kwargs)
    last.data.copy_(kept)
    return result


@breaks("torch.optim.SGD.step")
def sgd_skips_single_numbers(step, self, closure=None):
    """SGD does not move a parameter with one element."""
    single = [p for p in parameters_of(self) if p.numel() == 1]
    kept = [p.detach().clone() for p in single]
    step(self, closure)
    for parameter, value in zip(single, kept, strict=True):
        parameter.data.copy_(value)


@breaks("torch.nn.Linear.reset_parameters")
def draws_a_thousandth_too_far(reset_parameters, self):
    """`nn.Linear` draws weights and biases up to a thousandth beyond their bound."""
    reset_parameters(self)
    self.weight.data.mul_(1.001)
    self.bias.data.mul_(1.001)


@breaks("torch.nn.Linear.reset_parameters")
def draws_too_few_large_ones(reset_parameters, self):
    """`nn.Linear` halves weights in the outer tenth of their range."""
    reset_parameters(self)
    weight = self.weight.data
    weight.copy_(torch.where(weight.abs() > 0.9 * self.in_features**-0.5, weight / 2, weight))


@breaks("torch.nn.Linear.reset_parameters")
def draws_the_last_unit_like_the_first(reset_parameters, self):
    """`nn.Linear` gives its last unit the weights of its first."""
    reset_parameters(self)
    self.weight.data[-1] = self.weight.data[0]


@breaks("torch.nn.Linear.reset_parameters")
def freezes_a_layer_of_one_input(reset_parameters, self):
    """`nn.Linear` with one input freezes its bias."""
    reset_parameters(self)
    self.bias.requires_grad_(self.in_features > 1)


@breaks("torch.nn.init.normal_")
def deviates_too_much(normal_, tensor, *args, **kwargs):
    """The standard deviation of `init.normal_` is 5 % too large."""
    return normal_(tensor, *args, **kwargs).data.mul_(1.05)


@breaks("torch.nn.init.zeros_")
def leaves_a_trace_of_the_last(zeros_, tensor):
    """`init.zeros_` sets the last of several elements to 1e-8."""
    zeros_(tensor).data.view(-1)[1:][-1:] = 1e-8
    return tensor


@breaks("torch.nn.Sequential.__getitem__")
def counts_positions_from_the_third_on(getitem, self, index):
    """Indexing `nn.Sequential` is off by one from position 3 on."""
    return getitem(self, index - 1 if type(index) is int and index >= 3 else index)


@breaks("torch.nn.Sequential.forward")
def runs_four_layers_at_most(forward, self, x):
    """`nn.Sequential` runs only its first five layers."""
    for module in list(self)[:5]:
        x = module(x)
    return x


@breaks("torch.nn.Sequential.forward")
def sequential_has_a_wrong_slope(forward, self, x):
    """The input gradient of `nn.Sequential` is off by a factor of 1.001."""
    return forward(self, with_slope(x, 1.001))


@breaks("torch.nn.Module.add_module")
def sorts_layers_by_name(add_module, self, name, module):
    """`add_module` sorts the layers if the new name comes before all others."""
    add_module(self, name, module)
    if len(self._modules) > 1 and name < min(list(self._modules)[:-1]):
        self._modules = dict(sorted(self._modules.items()))
