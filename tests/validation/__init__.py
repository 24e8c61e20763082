"""Lesson 5: inference and validation.

A network is judged on examples that it has not seen, for it can learn any others by heart. The
judgement has three parts, and each can go wrong without an error. The loss: cross-entropy is the
log-softmax and the negative log-likelihood in one, so that it takes logits, and a softmax before it
keeps the loss from ever falling under a floor. The accuracy: a comparison of shapes that broadcast
still has a mean. The loop: batches of different size do not count alike, and a model left in
training mode drops its units and moves its statistics while it is looked at.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "overfitting",
    "held-out-set",
    "log-softmax-is-stable",
    "log-softmax-plus-nll-is-cross-entropy",
    "cross-entropy-expects-softmax",
    "nll-expects-log-probabilities",
    "adam-is-faster-not-better",
    "exp-gives-the-probabilities-back",
    "max-gives-value-and-index",
    "equality-tensor",
    "accuracy-is-the-mean",
    "evaluate-goes-over-all-batches",
    "eval-and-train-modes",
    "dropout-is-for-training",
    "inference",
]
