"""Lesson 1: tensors.

A tensor is an array of numbers of one dtype: a vector is a 1-d tensor, a matrix a 2-d one. Behind
it stands a storage, a plain run of memory, and the tensor says only how to walk it: shape, strides,
offset. Most of this lesson follows from that one fact. Indexing with slices, `view` and
`from_numpy` make another way to walk the same memory, so a write through one is seen through the
other. Methods whose names end in an underscore write into that memory. `resize_` sets another walk
without a look at the old strides, which is why it does not reshape.

Each claim of the notes is a section: first the mistakes, then the law that rejects them.
"""

CLAIMS = [
    "coherent-with-python",
    "generalise-vectors-and-matrices",
    "index-like-numpy",
    "size-gives-the-dimensions",
    "underscore-mutates",
    "in-place-cannot-change-type-or-room",
    "resize-in-place",
    "view-is-a-new-tensor",
    "from-numpy",
    "to-numpy",
    "numpy-shares-memory",
]
