"""Techniques of tensors: bad input, edge cases and speed, beyond the claims."""

import re

import pytest
import torch

from dlconcepts.tensors import in_place_pairs, to_numpy


def test_the_pairs_are_found() -> None:
    """Introspection finds the pairs by the hundred, arithmetic, comparisons and the rest."""
    in_place_pairs.cache_clear()
    pairs = in_place_pairs()

    assert len(pairs) >= 100
    assert {"add", "mul", "exp", "clamp_min", "logical_not", "tril"} <= set(pairs)
    assert pairs["add"] == (torch.float32, "tensor")
    assert pairs["bitwise_not"] == (torch.int64, "none")
    assert pairs["clamp_min"] == (torch.float32, "tensor")
    assert not {"bernoulli", "detach", "resize", "resize_as"} & set(pairs)


def test_a_tensor_on_another_device_is_asked_to_the_cpu_first() -> None:
    """An array has no other memory than the machine's own."""
    with pytest.raises(TypeError, match=re.escape(": call .cpu() first")):
        to_numpy(torch.ones(2, device="meta"))
