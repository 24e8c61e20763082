"""Lesson 6: checkpoints that can be trusted.

A model's state_dict maps names to parameters and buffers. It refers to them: it is not a copy. A
file with the state_dict restores the weights, but neither the architecture nor the state of the
training; a checkpoint has to store both as well. And files get damaged. `torch.save` writes in
place, so a process that dies while writing leaves half a file where a good one stood, and
`torch.load` reads a flipped bit without an error. Our checkpoints replace the file as a whole and
carry a checksum, which `load` verifies before it loads anything.
"""

CLAIMS = [
    "state-dict-holds-the-parameters",
    "state-dict-is-a-method",
    "state-dict-is-not-a-copy",
    "save-and-load",
    "shape-mismatch-raises",
    "architecture-travels-along",
    "whole-model-files-are-refused",
    "resume",
    "survive-damage",
]
