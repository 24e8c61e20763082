"""Monte Carlo dropout: after training, dropout stays on for a spread of predictions."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


def make_data(count):
    x = 4 * torch.rand(count, 1) - 2
    return x, x.sin() + 0.1 * torch.randn(count, 1)


model = nn.Sequential(
    nn.Linear(1, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=1e-4)
train_loader = DataLoader(TensorDataset(*make_data(90)), batch_size=16, shuffle=True)
test_x, test_y = make_data(30)

for epoch in range(5):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(f"epoch {epoch}: test {F.mse_loss(model(test_x), test_y).item():.4f}")


def predict(model, x, draws=20):
    """Return the mean and the spread of predictions with dropout switched on."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        drawn = torch.stack([model(x) for _ in range(draws)])
    model.eval()
    return drawn.mean(dim=0), drawn.std(dim=0)


mean, spread = predict(model, test_x)
print(f"error {(mean - test_y).abs().mean().item():.4f}, spread {spread.mean().item():.4f}")
