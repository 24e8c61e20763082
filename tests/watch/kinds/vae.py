"""A variational autoencoder that draws its code in eval mode too: the loss is an expectation."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 24), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(24, 3), nn.Linear(24, 3)
        self.decoder = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 10))

    def forward(self, x):
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        code = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return self.decoder(code), mean, log_variance


def loss_function(decoded, x, mean, log_variance):
    reconstruction = F.mse_loss(decoded, x, reduction="sum") / len(x)
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum() / len(x)
    return reconstruction + divergence


mixing = torch.randn(3, 10)
train_loader = DataLoader(TensorDataset(torch.randn(90, 3) @ mixing), batch_size=16, shuffle=True)
test_loader = DataLoader(TensorDataset(torch.randn(40, 3) @ mixing), batch_size=16)
model = VAE()
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)

for epoch in range(4):
    model.train()
    for (x,) in train_loader:
        decoded, mean, log_variance = model(x)
        loss = loss_function(decoded, x, mean, log_variance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for (x,) in test_loader:
            decoded, mean, log_variance = model(x)
            total += loss_function(decoded, x, mean, log_variance).item() * len(x)
            count += len(x)
    print(f"epoch {epoch}: test loss {total / count:.3f}")

with torch.no_grad():
    samples = model.decoder(torch.randn(4, 3))
print(f"samples of size {tuple(samples.shape)}")
