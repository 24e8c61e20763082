"""Lesson 1: tensors.

A tensor is an array of numbers of one dtype: a vector is a 1-d tensor, a matrix a 2-d one. The
numbers lie in a storage, one flat run of memory. Shape, strides and offset say where in it each
element is. Most of this lesson follows from that one fact. Slices, `view` and `from_numpy` make a
second tensor over the same memory, so a write through one shows in the other. Methods whose names
end in an underscore write into that memory. `resize_` changes the shape and ignores the old
strides, which is why it does not reshape.
"""

CLAIMS = [
    "coherent-with-python",
    "generalise-vectors-and-matrices",
    "index-like-numpy",
    "size-gives-the-dimensions",
    "type-returns-a-new-tensor",
    "underscore-mutates",
    "in-place-cannot-change-type-or-room",
    "resize-in-place",
    "view-is-a-new-tensor",
    "from-numpy",
    "to-numpy",
    "numpy-shares-memory",
]
