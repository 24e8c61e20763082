"""A denoising autoencoder with tied weights: its target is its clean input."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

torch.manual_seed(0)


class Curves(Dataset):
    """Arrays of numpy, copied and normalised when they are read."""

    def __init__(self, count, seed):
        generator = np.random.default_rng(seed)
        phase = generator.uniform(0, 6, (count, 1))
        self.values = (np.sin(phase + np.linspace(0, 6, 12)) * 50 + 128).astype(np.float32)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return (torch.from_numpy(self.values[index]) - 128) / 50


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(12, 4)
        self.bias = nn.Parameter(torch.zeros(12))

    def forward(self, x):
        code = torch.tanh(self.encode(x))
        return F.linear(code, self.encode.weight.T, self.bias)


train_loader = DataLoader(Curves(80, seed=0), batch_size=16, shuffle=True)
test_loader = DataLoader(Curves(36, seed=1), batch_size=16)
model = Autoencoder()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)

for epoch in range(4):
    model.train()
    for clean in train_loader:
        noisy = clean + 0.1 * torch.randn_like(clean)
        loss = F.mse_loss(model(noisy), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for clean in test_loader:
            total += F.mse_loss(model(clean), clean).item() * len(clean)
            count += len(clean)
    print(f"epoch {epoch}: test loss {total / count:.4f}")
