"""Lesson 8: transfer learning.

A network that learned to tell a thousand kinds of things apart, on a million photographs, has
learned features that tell other things apart, too. So we replace its last layer, the head, with one
for our own classes, and train only that. Three things go wrong without an error. The new head is
assigned to a name that the network does not run. The frozen part still moves, through old
gradients, momentum or the running statistics of BatchNorm. And the images are not normalised as the
pretrained weights need them.

A law about every family of torchvision runs on the meta device, whose tensors have shapes but no
numbers, so even the largest network takes a tenth of a second.
"""

CLAIMS = [
    "features-then-classifier",
    "pretrained-models-end-in-scores",
    "new-head",
    "freeze",
    "frozen-parameters-stay-fixed",
    "replace-the-classifier",
    "pretrained-weights",
    "cached-features-train-the-same-head",
]
