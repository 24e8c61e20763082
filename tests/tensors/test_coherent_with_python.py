"""PyTorch fits Python.

>>> x = torch.arange(3)
>>> y = x
>>> y
tensor([0, 1, 2])

Notes: PyTorch fits the way one codes in Python, and the concepts of deep learning,
    better than TensorFlow and Keras.
Verdict: opinion
"""
