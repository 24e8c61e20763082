"""A small causal language model: each token is predicted from those before it."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
BLOCK, WIDTH, HEADS = 16, 32, 2

words = [
    "to",
    "be",
    "or",
    "not",
    "that",
    "is",
    "the",
    "question",
    "whether",
    "it",
    "nobler",
    "in",
    "mind",
]
text = "".join(words[number] for number in torch.randint(len(words), (230,)).tolist())
letters = sorted(set(text))
codes = torch.tensor([letters.index(letter) for letter in text])
train, held_out = codes[:700], codes[700:]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("mask", torch.tril(torch.ones(BLOCK, BLOCK, dtype=torch.bool)))

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(~self.mask[:t, :t], -1e9)
        return self.out((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, t, WIDTH))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(len(letters), WIDTH), nn.Embedding(BLOCK, WIDTH)
        self.attention, self.norm = Attention(), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, len(letters))

    def forward(self, x):
        x = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(x + self.attention(x)))


def batch(codes, count=8):
    starts = torch.randint(len(codes) - BLOCK - 1, (count,))
    x = torch.stack([codes[s : s + BLOCK] for s in starts])
    y = torch.stack([codes[s + 1 : s + BLOCK + 1] for s in starts])
    return x, y


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

for step in range(30):
    model.train()
    x, y = batch(train)
    logits = model(x)
    loss = F.cross_entropy(logits.view(-1, logits.size(-1)), y.view(-1))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()

    if step % 10 == 9:
        model.eval()
        with torch.no_grad():
            x, y = batch(held_out, 16)
            test_loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
        print(f"step {step}: training {loss.item():.3f}, held out {test_loss:.3f}")
