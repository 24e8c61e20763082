"""A compiled model: the optimizer and the checkpoint use the module underneath."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


def make_data(count):
    y = torch.arange(count) * 3 // count
    return TensorDataset(torch.randn(count, 5) + y[:, None], y)


net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
model = torch.compile(net, backend="eager")
optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
train_loader = DataLoader(make_data(80), batch_size=16, shuffle=True)
test_loader = DataLoader(make_data(32), batch_size=16)

for epoch in range(3):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    model.eval()
    total = 0.0
    with torch.no_grad():
        for x, y in test_loader:
            total += F.cross_entropy(model(x), y).item() * len(y)
    print(f"epoch {epoch}: test loss {total / len(test_loader.dataset):.3f}")

torch.save(net.state_dict(), "compiled.pt")
