"""Faults in lesson 6: state_dict, save, load, resume."""

import copy

import torch

from faults import breaks


@breaks("torch.nn.Module.state_dict")
def state_dict_copies_vectors(state_dict, self, *args, **kwargs):
    """`state_dict` copies entries of one dimension instead of sharing their memory."""
    found = state_dict(self, *args, **kwargs)
    for name, value in found.items():
        if value.ndim == 1 and not kwargs.get("keep_vars"):
            found[name] = value.clone()
    return found


@breaks("torch.nn.Module.state_dict")
def state_dict_leaves_counters_out(state_dict, self, *args, **kwargs):
    """`state_dict` omits buffers of rank 0."""
    found = state_dict(self, *args, **kwargs)
    for name in [name for name, value in found.items() if value.ndim == 0]:
        del found[name]
    return found


@breaks("torch.nn.Module.state_dict")
def state_dict_keeps_passing_buffers(state_dict, self, *args, **kwargs):
    """`state_dict` includes buffers that are not persistent."""
    found = state_dict(self, *args, **kwargs)
    for name, buffer in self.named_buffers():
        found.setdefault(name, buffer)
    return found


@breaks("torch.Tensor.__deepcopy__")
def deepcopy_shares_single_numbers(deepcopy, tensor, memo):
    """`deepcopy` of a tensor with one element shares its memory."""
    return tensor.detach() if tensor.numel() == 1 and not tensor.grad_fn else deepcopy(tensor, memo)


@breaks("torch.Tensor.__deepcopy__")
def deepcopy_shares_buffers(deepcopy, tensor, memo):
    """`deepcopy` of a float32 vector that is not a parameter shares its memory."""
    shared = tensor.ndim == 1 and not isinstance(tensor, torch.nn.Parameter)
    return tensor.detach() if shared and tensor.dtype == torch.float32 else deepcopy(tensor, memo)


def changed(content, change):
    """Apply a change to each tensor in nested content."""
    if isinstance(content, torch.Tensor):
        return change(content)
    if isinstance(content, dict):
        return type(content)((key, changed(value, change)) for key, value in content.items())
    if isinstance(content, (list, tuple)):
        return type(content)(changed(value, change) for value in content)
    return content


@breaks("torch.save")
def save_flushes_subnormals(save, content, file, **kwargs):
    """`save` turns subnormal float32 numbers into zero."""

    def flush(tensor):
        tiny = torch.finfo(torch.float32).smallest_normal
        if tensor.dtype != torch.float32 or not tensor.numel():
            return tensor
        small = (tensor.abs() < tiny) & (tensor != 0)
        return torch.where(small, 0, tensor) if bool(small.any()) else tensor

    save(changed(content, flush), file, **kwargs)


@breaks("torch.save")
def save_loses_the_sign_of_zero(save, content, file, **kwargs):
    """`save` turns -0.0 in bfloat16 into 0.0."""

    def drop(tensor):
        lost = tensor.dtype == torch.bfloat16 and bool((tensor.signbit() & (tensor == 0)).any())
        return torch.where(tensor == 0, 0, tensor) if lost else tensor

    save(changed(content, drop), file, **kwargs)


@breaks("torch.save")
def save_forgets_permuted_strides(save, content, file, **kwargs):
    """`save` makes non-contiguous matrices contiguous."""
    plain = changed(content, lambda t: t.contiguous() if t.ndim == 2 else t)
    save(plain, file, **kwargs)


@breaks("torch.save")
def save_unshares_what_begins_later(save, content, file, **kwargs):
    """`save` copies a view with a storage offset, which then shares no memory."""
    save(changed(content, lambda t: t.clone() if t.storage_offset() else t), file, **kwargs)


@breaks("torch.load")
def load_rounds_doubles(load, file, **kwargs):
    """`load` rounds float64 tensors of fewer than four elements to float32."""

    def rounded(tensor):
        if tensor.dtype == torch.float64 and 0 < tensor.numel() < 4:
            return tensor.float().double()
        return tensor

    return changed(load(file, **kwargs), rounded)


@breaks("torch.load")
def load_runs_code(load, file, weights_only=True, **kwargs):
    """`load` ignores `weights_only` for a file object."""
    return load(file, weights_only=weights_only and hasattr(file, "__fspath__"), **kwargs)


@breaks("torch.load")
def load_runs_code_of_a_path(load, file, weights_only=True, **kwargs):
    """`load` ignores `weights_only` for a path."""
    return load(file, weights_only=weights_only and not hasattr(file, "__fspath__"), **kwargs)


@breaks("torch.load")
def load_transposes_a_square(load, file, **kwargs):
    """`load` transposes square matrices."""
    return changed(
        load(file, **kwargs),
        lambda t: t.T.clone() if t.ndim == 2 and len(t) == len(t.T) > 1 else t,
    )


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_ignores_a_missing_bias(load_state_dict, self, state_dict, *args, **kwargs):
    """`load_state_dict` accepts a missing bias."""
    own = self.state_dict()
    state_dict = dict(state_dict)
    for name in own:
        if name.endswith("bias"):
            state_dict.setdefault(name, own[name])
    return load_state_dict(self, state_dict, *args, **kwargs)


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_names_no_shape(load_state_dict, self, state_dict, *args, **kwargs):
    """The error for a wrong shape does not say "copying a param with shape"."""
    try:
        return load_state_dict(self, state_dict, *args, **kwargs)
    except RuntimeError as error:
        text = str(error).replace("copying a param with shape", "another than")
        raise RuntimeError(text) from None


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_freezes_what_it_assigns(
    load_state_dict, self, state_dict, strict=True, assign=False
):
    """`load_state_dict` with `assign=True` freezes vectors."""
    result = load_state_dict(self, state_dict, strict, assign)
    if assign:
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.ndim > 1)
    return result


@breaks("torch.nn.Module.load_state_dict")
def load_state_dict_casts_what_it_assigns(
    load_state_dict, self, state_dict, strict=True, assign=False
):
    """`load_state_dict` with `assign=True` casts bfloat16 to float32."""
    if assign:
        state_dict = changed(state_dict, lambda t: t.float() if t.dtype == torch.bfloat16 else t)
    return load_state_dict(self, state_dict, strict, assign)


@breaks("torch.optim.Optimizer.load_state_dict")
def optimizer_forgets_the_state_of_vectors(load_state_dict, self, state_dict):
    """An optimizer's `load_state_dict` drops the state of vectors."""
    load_state_dict(self, state_dict)
    for parameter in list(self.state):
        if parameter.ndim == 1:
            del self.state[parameter]


@breaks("torch.optim.Optimizer.load_state_dict")
def optimizer_counts_from_the_start(load_state_dict, self, state_dict):
    """An optimizer's `load_state_dict` resets Adam's step count to 1."""
    load_state_dict(self, copy.deepcopy(state_dict))
    for state in self.state.values():
        if "step" in state:
            state["step"].fill_(1)


@breaks("torch.optim.Optimizer.state_dict")
def optimizer_rounds_its_state(state_dict, self):
    """An optimizer's `state_dict` rounds the state to bfloat16."""
    found = copy.deepcopy(state_dict(self))
    found["state"] = changed(found["state"], lambda t: t.bfloat16().to(t.dtype))
    return found


@breaks("torch.set_rng_state")
def set_rng_state_is_one_draw_off(set_rng_state, state):
    """`set_rng_state` skips one random number."""
    set_rng_state(state)
    torch.rand(1)


@breaks("torch.nn.Module.eval")
def eval_leaves_dropout_on(eval_, self):
    """`eval` leaves Dropout modules in training mode."""
    eval_(self)
    for module in self.modules():
        if isinstance(module, torch.nn.Dropout):
            module.training = True
    return self


@breaks("torch.nn.functional.dropout")
def dropout_remembers_where_it_was(dropout, x, p=0.5, training=True, inplace=False, drawn=[]):
    """The dropout mask depends on the number of earlier calls, not on the random state."""
    drawn.append(1)
    with torch.random.fork_rng(devices=[]):
        if training:
            torch.manual_seed(len(drawn))
        return dropout(x, p, training)
