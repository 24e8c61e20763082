"""Lesson 2, first part: the data that goes in.

An image file is bytes, height by width by channel; a network takes floats around 0, channel first.
The way from one to the other is a pipeline: make a tensor, divide by 255, subtract a mean, divide
by a deviation. torchvision has two versions of it, which differ where nobody looks: in the last
bit, in integers that are not bytes, in grey images that meet the statistics of three channels.

A loader then cuts the examples into batches. It is an iterable, not an iterator: each `iter` of it
begins a new epoch. What it must never do is lose an example, repeat one, or part an image from its
label.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.

Lesson 2, second part: what a network computes.

A fully connected network is a chain: each layer multiplies its input with a matrix of weights and
adds a bias, and between the layers an activation bends what would else be one straight map. What
goes in is a batch: dimension 0 counts the examples, and no example may know of its neighbours. What
comes out are logits, one number a class; softmax makes them probabilities.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.

Lesson 2, third part: how a network is written.

`nn.Module` finds the weights by watching assignments to `self`. Most of what goes wrong in a
network class is a weight that it does not find: nothing complains, and the weight never learns. So
layers are created once, in `__init__`, with their first random weights; forward only uses them.
`nn.Sequential` writes the same chain as a list.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
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
    "flatten-images",
    "call-forward",
    "class-scores",
    "sequential-is-the-same",
    "sequential-by-name",
]
