"""Lesson 3: autograd.

Autograd records operations while they run. The result of an operation on a tracked tensor keeps
that operation as its `grad_fn`, which points to the operations before it: together they are the
graph. `backward` walks the graph from the loss to the leaves, multiplies by the Jacobian of each
operation, and adds the gradient that reaches a leaf to its `grad`. Because it adds, you must zero
gradients between steps, a weight that is used twice gets the right gradient, and a batch that is
too large for the memory can be split into micro-batches.
"""

CLAIMS = [
    "requires-grad-tracks",
    "requires-grad-at-creation",
    "grad-fn-is-the-history",
    "backward-computes-gradients",
    "chain-rule",
    "backward-starts-from-a-scalar",
    "graph-is-used-up",
    "gradients-accumulate",
    "micro-batches-add-up-to-a-batch",
    "no-grad-turns-tracking-off",
    "in-place-writes-break-backward",
]
