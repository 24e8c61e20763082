"""Fine-tuning in two phases: first the head, then, unfrozen, the base with a smaller rate."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(6, 24), nn.LayerNorm(24), nn.ReLU())
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.base(x))


def make_data(count):
    y = torch.randint(3, (count,))
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


def run(model, loader, optimizer, epochs):
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(y)
        print(f"epoch {epoch}: training {total / len(loader.dataset):.3f}")


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    right = sum((model(x).argmax(dim=1) == y).sum().item() for x, y in loader)
    return right / len(loader.dataset)


model = Net()
train_loader = DataLoader(make_data(90), batch_size=16, shuffle=True)
test_loader = DataLoader(make_data(40), batch_size=16)

model.base.requires_grad_(False)
run(model, train_loader, torch.optim.Adam(model.head.parameters(), lr=1e-2), epochs=2)
print(f"head alone: {accuracy(model, test_loader):.3f}")

model.base.requires_grad_(True)
groups = [
    {"params": model.base.parameters(), "lr": 1e-3},
    {"params": model.head.parameters(), "lr": 5e-3},
]
run(model, train_loader, torch.optim.Adam(groups), epochs=2)
print(f"all of it: {accuracy(model, test_loader):.3f}")
