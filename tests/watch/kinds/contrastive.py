"""Self-supervised contrast: two views of an example attract, the others of the batch repel."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)

encoder = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
projector = nn.Linear(16, 8)
optimizer = torch.optim.AdamW([*encoder.parameters(), *projector.parameters()], lr=2e-3)


def augment(x):
    return x + 0.1 * torch.randn_like(x)


def nt_xent(first, second, temperature=0.2):
    both = F.normalize(torch.cat([first, second]), dim=1)
    likeness = both @ both.T / temperature
    likeness = likeness.masked_fill(torch.eye(len(both), dtype=torch.bool), -1e9)
    partner = torch.arange(len(both)).roll(len(first))
    return F.cross_entropy(likeness, partner)


labels = torch.arange(96) % 4
points = torch.randn(4, 8)[labels] + 0.3 * torch.randn(96, 8)
loader = DataLoader(TensorDataset(points), batch_size=16, shuffle=True, drop_last=True)

for epoch in range(4):
    encoder.train()
    projector.train()
    total = 0.0
    for (x,) in loader:
        loss = nt_xent(projector(encoder(augment(x))), projector(encoder(augment(x))))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    print(f"epoch {epoch}: loss {total / len(loader):.4f}")

# Judge the representation by the nearest neighbour of each example.
encoder.eval()
with torch.no_grad():
    features = F.normalize(encoder(points), dim=1)
likeness = (features @ features.T).fill_diagonal_(-1)
print(f"neighbours alike {(labels[likeness.argmax(dim=1)] == labels).float().mean().item():.3f}")
