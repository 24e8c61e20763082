"""Lesson 5: inference and validation.

We judge a network on examples that it has not seen, because it can memorize the others. Three parts
of the judgement can go wrong without an error. The loss: cross-entropy is log-softmax and negative
log-likelihood in one, so it takes logits; after a softmax it cannot fall below a floor. The
accuracy: a comparison of shapes that broadcast still has a mean, but the wrong one. The loop: a
small last batch must not count as much as a full one, and a model left in training mode keeps
dropping units and updating its BatchNorm statistics while it is measured.
"""

CLAIMS = [
    "overfitting",
    "held-out-set",
    "log-softmax-is-stable",
    "log-softmax-keeps-the-predictions",
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
