"""Two networks, two optimizers: a generator learns to draw a ring of points."""

import torch
from torch import nn

torch.manual_seed(0)
BATCH = 32


def real_points(count):
    angle = 2 * torch.pi * torch.rand(count)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
discriminator = nn.Sequential(nn.Linear(2, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
g_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
criterion = nn.BCEWithLogitsLoss()
ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

for step in range(20):
    real = real_points(BATCH)
    fake = generator(torch.randn(BATCH, 4))

    d_optimizer.zero_grad()
    d_loss = criterion(discriminator(real), ones)
    d_loss = d_loss + criterion(discriminator(fake.detach()), zeros)
    d_loss.backward()
    d_optimizer.step()

    # This backward leaves gradients in the discriminator too, cleared before its next step.
    g_optimizer.zero_grad()
    g_loss = criterion(discriminator(fake), ones)
    g_loss.backward()
    g_optimizer.step()

    if step % 10 == 0:
        print(f"step {step}: discriminator {d_loss.item():.3f}, generator {g_loss.item():.3f}")

generator.eval()
with torch.no_grad():
    radius = generator(torch.randn(100, 4)).norm(dim=1)
print(f"radius {radius.mean().item():.3f}")
