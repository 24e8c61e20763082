"""Lesson 9: a network on another device, and how one knows that it computes the same there.

Moving is an order that a module obeys and a tensor answers with a copy. The results may differ by
what rounding can do, and by nothing else; how much that is follows from the dtype and the length of
the sums, and each law here rejects the faults that a looser comparison would let pass.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "model-to-device",
    "same-results",
    "checkpoint-crosses-devices",
    "cuda-is-faster",
]
