"""Lesson 3: autograd.

While a result is computed, autograd writes down the operations: each result that depends on a
tracked tensor holds, as `grad_fn`, the last of them, which points to those before. `backward`
walks that graph from the loss to the leaves, multiplies by the Jacobian of each operation on the
way, and adds what arrives at a leaf to its `grad`. Because it adds, a gradient that was not zeroed
is wrong, a weight that is used twice is right, and a batch too large for the memory can be cut up.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "requires-grad-tracks",
    "grad-fn-is-the-history",
    "backward-computes-gradients",
    "chain-rule",
    "backward-starts-from-a-scalar",
    "graph-is-used-up",
    "gradients-accumulate",
    "micro-batches-add-up-to-a-batch",
    "no-grad-turns-tracking-off",
]
