"""A Wasserstein GAN: five steps of the critic for each of the generator, and clamped weights."""

import torch
from torch import nn

torch.manual_seed(0)
BATCH, CRITIC_STEPS, LIMIT = 32, 5, 0.05


def real_points(count):
    return torch.randn(count, 2) * torch.tensor([1.0, 0.2]) + 2


generator = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))
critic = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 1))
generator_optimizer = torch.optim.RMSprop(generator.parameters(), lr=5e-3)
critic_optimizer = torch.optim.RMSprop(critic.parameters(), lr=5e-3)

for _ in range(8):
    for _ in range(CRITIC_STEPS):
        real = real_points(BATCH)
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, 3))
        critic_loss = critic(fake).mean() - critic(real).mean()
        critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_optimizer.step()
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-LIMIT, LIMIT)

    generator_loss = -critic(generator(torch.randn(BATCH, 3))).mean()
    generator_optimizer.zero_grad()
    generator_loss.backward()
    generator_optimizer.step()
    print(f"distance {-critic_loss.item():.4f}")
