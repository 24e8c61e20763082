"""A policy gradient: the log-probabilities of an episode are kept until its one backward."""

import torch
from torch import nn
from torch.distributions import Categorical

torch.manual_seed(0)
LENGTH = 5

policy = nn.Sequential(nn.Linear(LENGTH, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
baseline = 0.0

for episode in range(20):
    place, log_probs, rewards = 0, [], []
    for _ in range(8):
        choice = Categorical(logits=policy(torch.eye(LENGTH)[place]))
        action = choice.sample()
        log_probs.append(choice.log_prob(action))
        place = max(0, min(LENGTH - 1, place + 2 * action.item() - 1))
        rewards.append(float(place == LENGTH - 1))

    gains, gain = [], 0.0
    for reward in reversed(rewards):
        gain = reward + 0.9 * gain
        gains.insert(0, gain - baseline)
    baseline = 0.9 * baseline + 0.1 * gain
    loss = -(torch.stack(log_probs) * torch.tensor(gains)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if episode % 5 == 0:
        print(f"episode {episode}: reward {sum(rewards):.0f}")
