"""Techniques of tensors, beyond the claims: bad input and edge cases."""

import re

import pytest
import torch

from dlconcepts.tensors import in_place_pairs, to_numpy


def test_the_pairs_are_found() -> None:
    """Over a hundred pairs are found; methods that only look like a pair are not."""
    in_place_pairs.cache_clear()  # an earlier test may have filled it
    pairs = in_place_pairs()

    assert len(pairs) >= 100
    assert {"add", "mul", "exp", "clamp_min", "logical_not", "tril"} <= set(pairs)
    assert pairs["add"] == (torch.float32, "tensor")
    assert pairs["bitwise_not"] == (torch.int64, "none")
    assert pairs["clamp_min"] == (torch.float32, "tensor")
    assert not {"bernoulli", "detach", "resize", "resize_as"} & set(pairs)


def test_a_tensor_on_another_device_needs_cpu_first() -> None:
    """Numpy reads only CPU memory, so the error names cpu()."""
    with pytest.raises(TypeError, match=re.escape(": call .cpu() first")):
        to_numpy(torch.ones(2, device="meta"))
