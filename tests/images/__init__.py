"""Lesson 7: photographs in folders.

Real images come in a folder for each class, in any size, shape and colour mode. Some lie on their
side with an EXIF note on how to turn them; some files are hidden, damaged or no images at all. Two
pipelines make them alike. The training pipeline also distorts each image, differently each time it
is read, so that the network does not learn how one photograph was framed. The evaluation pipeline
draws no random number. Both end in the same normalisation, that of the network's pretraining.
The laws draw their own folders and images. The last claim also needs a network trained on others: a
small one comes with the library. Where real photographs and weights are at hand, it is judged on
those, too.
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
