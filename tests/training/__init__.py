"""Lesson 4: training.

A training step is forward, loss, backward, step. The gradient tells which way the loss falls
fastest at the current weights, but not how far: a step that is too long lands higher than it
started. An optimizer moves the parameters that it was given, and no others. An epoch is one pass
over all examples, cut into batches. To watch training, keep the mean loss of its examples as a
plain number. With a small learning rate that loss goes down, and with one seed a run can be
repeated bit for bit.
"""

CLAIMS = [
    "gradient-descent-is-steepest",
    "optimizer-step-applies-the-gradient",
    "backward-belongs-to-the-loss",
    "step-order",
    "optimizer-is-built-once",
    "epoch-is-one-pass",
    "running-loss",
    "item-is-for-scalars",
    "loss-goes-down",
    "same-seed-same-run",
]
