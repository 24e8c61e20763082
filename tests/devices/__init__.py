"""Lesson 9: a network on another device, and how we know that it computes the same there.

`model.to(device)` moves a module in place; `tensor.to(device)` returns a copy. Devices sum in
different orders, so their results differ, but only by rounding. How large that error can be follows
from the dtype and the length of the sums. The laws compare with this bound instead of a guessed
tolerance, and so catch faults that `atol=1e-2` would let pass: a lost bias, bfloat16 weights.
Most laws need only a CPU. The `meta` device, which keeps shapes and no values, stands for the
other one.
"""

CLAIMS = [
    "model-to-device",
    "same-results",
    "checkpoint-crosses-devices",
    "cuda-is-faster",
]
