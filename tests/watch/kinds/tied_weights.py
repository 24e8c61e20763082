"""A word model whose output layer shares its weight with the embedding."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
WORDS, WIDTH, LENGTH = 12, 16, 10


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.decoder = nn.Linear(WIDTH, WORDS)
        self.decoder.weight = self.embedding.weight

    def forward(self, words):
        hidden, _ = self.gru(self.embedding(words))
        return self.decoder(hidden)


def sentences(count):
    """Return sequences in which each word follows from the one before it."""
    words = [torch.randint(WORDS, (count,))]
    for _ in range(LENGTH):
        words.append((words[-1] * 5 + 1 + torch.randint(2, (count,))) % WORDS)
    return torch.stack(words, dim=1)


train, test = sentences(96), sentences(32)
model = Model()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(4):
    model.train()
    for rows in torch.randperm(len(train)).split(16):
        words = train[rows]
        optimizer.zero_grad()
        logits = model(words[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, WORDS), words[:, 1:].reshape(-1))
        loss.backward()
        optimizer.step()

    model.eval()
    with torch.no_grad():
        logits = model(test[:, :-1])
        test_loss = F.cross_entropy(logits.reshape(-1, WORDS), test[:, 1:].reshape(-1))
    print(f"epoch {epoch}: test perplexity {test_loss.exp().item():.3f}")
