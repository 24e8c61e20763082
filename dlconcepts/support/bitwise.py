"""Comparisons to the last bit, in which NaN and -0.0 count: the laws' way to say 'unchanged'."""

import torch
from torch import Tensor, nn


def bits(tensor: Tensor) -> bytes:
    """Return the bytes of the elements in row-major order, whatever the strides and the device.

    >>> bits(torch.tensor([0.0])) == bits(torch.tensor([-0.0]))
    False
    """
    elements = tensor.detach().cpu().resolve_conj().resolve_neg()
    flat = elements.clone(memory_format=torch.contiguous_format).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def same(one: Tensor, other: Tensor) -> bool:
    """Return whether shapes, dtypes and elements agree, NaN with NaN and -0.0 with 0.0.

    >>> same(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    True
    """
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def state_of(module: nn.Module) -> dict[str, object]:
    """Return all that a law may ask to be left alone, by name.

    The bits of each parameter, buffer and gradient (None where there is none), whether each
    parameter requires grad, and each submodule's training mode.

    >>> layer = nn.Linear(1, 1)
    >>> before = state_of(layer)
    >>> layer.eval() is layer and state_of(layer) == before
    False
    """
    state: dict[str, object] = {
        f"{name}: training": part.training for name, part in module.named_modules()
    }
    for name, parameter in module.named_parameters(remove_duplicate=False):
        gradient = None if parameter.grad is None else bits(parameter.grad)
        state[name] = (bits(parameter), parameter.requires_grad, gradient)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        state[name] = bits(buffer)
    return state
