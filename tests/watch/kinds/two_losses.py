"""Two heads with a loss each, and a backward for each: one step follows their sum."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 24), nn.ReLU())
        self.kind, self.size = nn.Linear(24, 3), nn.Linear(24, 1)

    def forward(self, x):
        shared = self.trunk(x)
        return self.kind(shared), self.size(shared).squeeze(1)


def make_data(count):
    kind = torch.randint(3, (count,))
    x = torch.randn(count, 6) + kind[:, None]
    return TensorDataset(x, kind, x.sum(dim=1) / 6)


train_loader = DataLoader(make_data(80), batch_size=16, shuffle=True)
test_loader = DataLoader(make_data(36), batch_size=16)
model = TwoHeads()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

for epoch in range(4):
    model.train()
    for x, kind, size in train_loader:
        optimizer.zero_grad()
        scores, sizes = model(x)
        F.cross_entropy(scores, kind).backward(retain_graph=True)
        F.mse_loss(sizes, size).backward()
        optimizer.step()

    model.eval()
    right, error, count = 0, 0.0, 0
    with torch.inference_mode():
        for x, kind, size in test_loader:
            scores, sizes = model(x)
            right += (scores.argmax(dim=1) == kind).sum().item()
            error += (sizes - size).abs().sum().item()
            count += len(kind)
    print(f"epoch {epoch}: accuracy {right / count:.3f}, error {error / count:.3f}")
