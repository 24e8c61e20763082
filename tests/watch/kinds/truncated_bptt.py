"""A character model that reads a long text in pieces, and detaches its state between them."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
BATCH, PIECE = 4, 12

words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
text = " ".join(words[number] for number in torch.randint(len(words), (230,)).tolist())
letters = sorted(set(text))
codes = torch.tensor([letters.index(letter) for letter in text])
columns = codes[: len(codes) // BATCH * BATCH].reshape(BATCH, -1)
train, held_out = columns[:, :200], columns[:, 200:]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(letters), 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, len(letters))

    def forward(self, x, state=None):
        hidden, state = self.lstm(self.embedding(x), state)
        return self.head(hidden), state


def pieces(codes):
    for start in range(0, codes.shape[1] - 1, PIECE):
        end = min(start + PIECE, codes.shape[1] - 1)
        yield codes[:, start:end], codes[:, start + 1 : end + 1]


model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(3):
    model.train()
    state = None
    for x, y in pieces(train):
        if state is not None:
            state = tuple(part.detach() for part in state)
        logits, state = model(x, state)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    model.eval()
    total, count, state = 0.0, 0, None
    with torch.no_grad():
        for x, y in pieces(held_out):
            logits, state = model(x, state)
            total += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item()
            count += y.numel()
    print(f"epoch {epoch}: training {loss.item():.3f}, held out {total / count:.3f}")
