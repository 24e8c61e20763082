"""A pretrained backbone is loaded with strict=False, since the head is new; the rest must fit."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU())
        self.head = nn.Linear(20, classes)

    def forward(self, x):
        return self.head(self.backbone(x))


def make_data(count, classes):
    y = torch.arange(count) * classes // count
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


def fit(model, loader, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(epochs):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: training {loss.item():.3f}")


source = Net(classes=5)
fit(source, DataLoader(make_data(80, 5), batch_size=16, shuffle=True), epochs=2)
torch.save(source.state_dict(), "pretrained.pt")

model = Net(classes=2)
state = torch.load("pretrained.pt", weights_only=True)
state = {name: value for name, value in state.items() if not name.startswith("head.")}
missing, unexpected = model.load_state_dict(state, strict=False)
assert set(missing) == {"head.weight", "head.bias"}
assert not unexpected
fit(model, DataLoader(make_data(80, 2), batch_size=16, shuffle=True), epochs=2)

model.eval()
x, y = make_data(40, 2).tensors
with torch.no_grad():
    print(f"accuracy {(model(x).argmax(dim=1) == y).float().mean().item():.3f}")
