"""A moving average of the weights, kept by hand, is what gets evaluated and saved."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


def make_data(count):
    y = torch.arange(count) * 3 // count
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


@torch.no_grad()
def update(average, model, decay=0.9):
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)
    for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
        slow.copy_(fast)


def evaluate(model, loader):
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            logits = model(x)
            total += F.cross_entropy(logits, y).item() * len(y)
            right += (logits.argmax(dim=1) == y).sum().item()
    return total / len(loader.dataset), right / len(loader.dataset)


model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
average = copy.deepcopy(model).requires_grad_(False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train_loader = DataLoader(make_data(90), batch_size=16, shuffle=True)
test_loader = DataLoader(make_data(40), batch_size=16)

for epoch in range(4):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        update(average, model)
    test_loss, accuracy = evaluate(average, test_loader)
    print(f"epoch {epoch}: average {test_loss:.3f}, accuracy {accuracy:.3f}")

torch.save(average.state_dict(), "average.pt")
