"""Lesson 7: photographs in folders.

Real images come in folders, one for each class, in any size, shape and colour mode, lying on their
side with a note to turn them, hidden copies and damaged ones among them. Two pipelines make all of
them alike. The one for training also distorts each image, anew every time it is read, so that the
network does not learn by heart how a photograph was held. The one for everything else draws nothing
at random. Both end in the same normalisation: that of the network that is to look at them.

Most laws run on drawn folders and images. The last one needs real photographs and real weights, and
is skipped, with what brings them, where they are missing.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "folders-are-classes",
    "pipeline-of-transforms",
    "loader-shuffles-batches",
    "augmentation-distorts-training-images",
    "no-augmentation-in-validation",
    "same-normalisation-for-both",
    "cats-and-dogs-are-hard",
]
