"""Lesson 8: transfer learning.

A network that has learnt to tell a thousand things apart on a million photographs has learnt, on
the way, features that tell other things apart as well. So its last layer, the head, is replaced by
one for the classes at hand, and only that is trained. Three things go wrong, and none of them says
so: the new head ends up where the network does not run it; what was to be frozen still moves, by
old gradients, by momentum, by the running statistics of BatchNorm; and the images are not
normalised as those were that the weights have learnt from.

Where a law is about every family of torchvision, it runs on the meta device, whose tensors have a
shape but no numbers: there the largest network costs a tenth of a second.
"""

CLAIMS = [
    "features-then-classifier",
    "new-head",
    "freeze",
    "frozen-parameters-stay-fixed",
    "replace-the-classifier",
    "pretrained-weights",
    "cached-features-train-the-same-head",
]
