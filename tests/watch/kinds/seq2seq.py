"""A decoder with teacher forcing: it is given the earlier targets, and predicts the next."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
PAD, START, DIGITS, LENGTH = 0, 1, 8, 6


class Reverser(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(DIGITS + 2, 16, padding_idx=PAD)
        self.encoder = nn.GRU(16, 32, batch_first=True)
        self.decoder = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, DIGITS + 2)

    def forward(self, source, target):
        _, state = self.encoder(self.embedding(source))
        outputs, _ = self.decoder(self.embedding(target), state)
        return self.head(outputs)


def make_data(count):
    source = torch.randint(2, DIGITS + 2, (count, LENGTH))
    target = torch.cat([torch.full((count, 1), START), source.flip(1)], dim=1)
    return TensorDataset(source, target)


train_loader = DataLoader(make_data(120), batch_size=20, shuffle=True)
test_loader = DataLoader(make_data(50), batch_size=20)
model = Reverser()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for epoch in range(4):
    model.train()
    for source, target in train_loader:
        logits = model(source, target[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), target[:, 1:], ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    model.eval()
    total, right, count = 0.0, 0, 0
    with torch.no_grad():
        for source, target in test_loader:
            logits = model(source, target[:, :-1])
            losses = F.cross_entropy(logits.transpose(1, 2), target[:, 1:], reduction="none")
            total += losses.sum().item()
            right += (logits.argmax(dim=2) == target[:, 1:]).sum().item()
            count += losses.numel()
    print(f"epoch {epoch}: test loss {total / count:.3f}, accuracy {right / count:.3f}")
