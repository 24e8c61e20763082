"""A critic with a gradient penalty, which differentiates through a gradient."""

import torch
from torch import nn

torch.manual_seed(0)
BATCH = 32

critic = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 1))
generator = nn.Sequential(nn.Linear(3, 24), nn.ReLU(), nn.Linear(24, 2))
critic_optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.9))
generator_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9))


def penalty(real, fake):
    share = torch.rand(len(real), 1)
    between = (share * real + (1 - share) * fake).requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((slope.norm(dim=1) - 1) ** 2).mean()


for step in range(16):
    real = torch.randn(BATCH, 2) + 2
    fake = generator(torch.randn(BATCH, 3)).detach()
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty(real, fake)
    critic_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    critic_optimizer.step()

    if step % 2:
        generator_optimizer.zero_grad(set_to_none=True)
        (-critic(generator(torch.randn(BATCH, 3))).mean()).backward()
        generator_optimizer.step()
    if step % 5 == 0:
        print(f"step {step}: critic {loss.item():.3f}")
