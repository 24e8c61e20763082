"""A model that computes its loss itself, and has none for a batch without labels."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
UNLABELLED = -1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x, labels=None):
        logits = self.layers(x)
        if labels is None or not (labels != UNLABELLED).any():
            return {"logits": logits, "loss": None}
        return {"logits": logits, "loss": F.cross_entropy(logits, labels, ignore_index=UNLABELLED)}


def make_data(count, labelled):
    y = torch.arange(count) % 3
    x = torch.randn(count, 5) + y[:, None]
    return TensorDataset(x, torch.where(torch.rand(count) < labelled, y, UNLABELLED))


train_loader = DataLoader(make_data(80, labelled=0.3), batch_size=4, shuffle=True)
test_x, test_y = make_data(40, labelled=1.1).tensors
model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

for epoch in range(3):
    model.train()
    skipped = 0
    for x, y in train_loader:
        loss = model(x, y)["loss"]
        if loss is None:
            skipped += 1
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    with torch.no_grad():
        right = (model(test_x)["logits"].argmax(dim=1) == test_y).float().mean().item()
    print(f"epoch {epoch}: {skipped} batches without labels, test accuracy {right:.3f}")
