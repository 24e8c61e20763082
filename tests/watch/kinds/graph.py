"""A graph network: one graph with all nodes, and masks for training and for testing."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
NODES, CLASSES = 60, 3

y = torch.arange(NODES) % CLASSES
x = F.one_hot(y, CLASSES).float() + torch.randn(NODES, CLASSES)
alike = (y[:, None] == y[None, :]).float()
edges = (torch.rand(NODES, NODES) < 0.02 + 0.13 * alike).float()
edges = ((edges + edges.T + torch.eye(NODES)) > 0).float()
scale = edges.sum(dim=1).rsqrt()
adjacency = scale[:, None] * edges * scale[None, :]
train_mask = torch.rand(NODES) < 0.5
test_mask = ~train_mask


class GCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(CLASSES, 16), nn.Linear(16, CLASSES)

    def forward(self, x, adjacency):
        x = F.relu(adjacency @ self.first(x))
        x = F.dropout(x, p=0.2, training=self.training)
        return adjacency @ self.second(x)


model = GCN()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=5e-4)

for epoch in range(30):
    model.train()
    optimizer.zero_grad()
    output = model(x, adjacency)
    loss = F.cross_entropy(output[train_mask], y[train_mask])
    loss.backward()
    optimizer.step()

    if epoch % 10 == 9:
        model.eval()
        with torch.no_grad():
            right = model(x, adjacency).argmax(dim=1) == y
        print(f"epoch {epoch}: test accuracy {right[test_mask].float().mean().item():.3f}")
