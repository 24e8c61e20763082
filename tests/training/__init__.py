"""Lesson 4: training.

Forward, loss, backward, step. The gradient says which way the loss falls fastest from where the
weights are, and nothing about how far that holds: a step longer than the curvature allows lands
higher than it began. An optimizer applies the gradients to the parameters that it was given, and to
no others. One pass through all examples, cut into batches, is an epoch; the mean loss of its
examples, kept as a number, is what one watches.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "gradient-descent-is-steepest",
    "optimizer-step-applies-the-gradient",
    "step-order",
    "epoch-is-one-pass",
    "running-loss",
    "item-is-for-scalars",
    "loss-goes-down",
    "same-seed-same-run",
]
