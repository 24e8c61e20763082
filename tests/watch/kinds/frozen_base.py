"""A new head on a frozen base, whose BatchNorm stays in eval mode by an override of train."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Classifier(nn.Module):
    def __init__(self, base, classes):
        super().__init__()
        self.base = base
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, classes))

    def train(self, mode=True):
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, x):
        return self.head(self.base(x))


def make_data(count, classes):
    y = torch.arange(count) * classes // count
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


def evaluate(model, loader):
    model.eval()
    total, right = 0.0, 0
    with torch.no_grad():
        for x, y in loader:
            logits = model(x)
            total += F.cross_entropy(logits, y, reduction="sum").item()
            right += (logits.argmax(dim=1) == y).sum().item()
    return total / len(loader.dataset), right / len(loader.dataset)


base = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU())
# Stands for a pretrained base: its statistics are those of other data.
base[1].running_mean.normal_(0, 0.1)
for parameter in base.parameters():
    parameter.requires_grad = False
model = Classifier(base, classes=4)
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
train_loader = DataLoader(make_data(88, 4), batch_size=16, shuffle=True)
test_loader = DataLoader(make_data(36, 4), batch_size=16)

for epoch in range(4):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    test_loss, accuracy = evaluate(model, test_loader)
    print(f"epoch {epoch}: test loss {test_loss:.3f}, accuracy {accuracy:.3f}")
