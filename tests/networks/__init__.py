"""Lesson 2: networks.

An image file holds bytes, height by width by channel. A network takes floats around 0, channel
first, so a pipeline makes a tensor, divides by 255 and normalises. A DataLoader then cuts the
examples into batches: each example once per epoch, together with its label. A fully connected
network is a chain: a layer multiplies by a matrix and adds a bias, and an activation follows, since
without one the whole chain would be a single linear layer. It returns logits, one score for each
class, which softmax turns into probabilities. As a class, a network creates its layers in
`__init__`, where `nn.Module` registers the weights, and uses them in `forward`. `nn.Sequential`
writes the same chain as a list.
"""

CLAIMS = [
    "to-tensor-scales",
    "normalize-to-minus-one-one",
    "compose-runs-in-order",
    "loader-cuts-batches",
    "shuffle-reorders",
    "loader-is-a-generator",
    "dimensions",
    "softmax-is-a-distribution",
    "loss-compares-with-the-label",
    "functional-is-the-same",
    "subclass-module",
    "layers-belong-in-init",
    "forward-chains-layers",
    "relu",
    "activations-belong-in-forward",
    "batch-is-dimension-zero",
    "parameters-come-initialised",
    "reinitialise",
    "weight-data-is-unchecked",
    "flatten-images",
    "dimension-of-the-classes",
    "call-forward",
    "class-scores",
    "sequential-is-the-same",
    "sequential-takes-an-ordered-dict",
    "sequential-by-name",
]
