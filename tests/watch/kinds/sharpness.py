"""Sharpness-aware minimisation: two forwards and two backwards for each step."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
RADIUS = 0.05


def make_data(count):
    y = torch.arange(count) * 3 // count
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
train_loader = DataLoader(make_data(80), batch_size=16, shuffle=True)
test_x, test_y = make_data(40).tensors

for epoch in range(3):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            slopes = [p.grad for p in model.parameters()]
            length = torch.stack([slope.norm() for slope in slopes]).norm()
            climbs = [slope * RADIUS / (length + 1e-12) for slope in slopes]
            for parameter, climb in zip(model.parameters(), climbs, strict=True):
                parameter.add_(climb)

        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        with torch.no_grad():
            for parameter, climb in zip(model.parameters(), climbs, strict=True):
                parameter.sub_(climb)
        optimizer.step()

    model.eval()
    with torch.no_grad():
        right = (model(test_x).argmax(dim=1) == test_y).float().mean().item()
    print(f"epoch {epoch}: loss {loss.item():.3f}, accuracy {right:.3f}")
