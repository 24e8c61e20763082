"""Lesson 6: checkpoints that can be trusted.

A model's state_dict names its parameters and buffers, and refers to them: it is no copy. Written to
a file it brings the weights back, but not the architecture, nor where training stood; both have to
be put in. And a file can be damaged. `torch.save` writes in place, so that a process that dies on
the way leaves half a file where a good one stood, and `torch.load` reads a flipped bit without a
word. Here the file is replaced whole, and carries a checksum that is looked at first.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "state-dict-holds-the-parameters",
    "state-dict-is-not-a-copy",
    "save-and-load",
    "shape-mismatch-raises",
    "architecture-travels-along",
    "resume",
    "survive-damage",
]
