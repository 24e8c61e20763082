"""A model runs as plain Python, one line at a time.

>>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
>>> x = torch.ones(4, 2)
>>> for layer in model:
...     x = layer(x)
...     print(type(layer).__name__, tuple(x.shape))
Linear (4, 3)
ReLU (4, 3)
Linear (4, 1)

Notes: PyTorch fits the way one codes in Python, and the concepts of deep learning, better than
    TensorFlow and Keras.
Verdict: opinion
"""
