"""Q-learning: a replay memory, and a target network that is loaded from the online one."""

import random
from collections import deque

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
random.seed(0)
LENGTH, GAMMA, BATCH = 6, 0.9, 16


def move(place, action):
    """Walk along a corridor; the reward is at its right end."""
    place = max(0, min(LENGTH - 1, place + (1 if action == 1 else -1)))
    return place, float(place == LENGTH - 1), place == LENGTH - 1


def encode(places):
    return F.one_hot(torch.tensor(places), LENGTH).float()


online = nn.Sequential(nn.Linear(LENGTH, 32), nn.ReLU(), nn.Linear(32, 2))
target = nn.Sequential(nn.Linear(LENGTH, 32), nn.ReLU(), nn.Linear(32, 2))
target.load_state_dict(online.state_dict())
optimizer = torch.optim.Adam(online.parameters(), lr=5e-3)
memory = deque(maxlen=500)

place, returns = 0, 0.0
for step in range(70):
    if random.random() < 0.3:
        action = random.randrange(2)
    else:
        with torch.no_grad():
            action = online(encode([place])).argmax(dim=1).item()
    following, reward, done = move(place, action)
    memory.append((place, action, reward, following, done))
    returns += reward
    place = 0 if done else following

    if len(memory) < BATCH:
        continue
    places, actions, rewards, followings, dones = zip(*random.sample(memory, BATCH), strict=True)
    with torch.no_grad():
        best = target(encode(followings)).max(dim=1).values
        goal = torch.tensor(rewards) + GAMMA * best * (1 - torch.tensor(dones, dtype=torch.float32))
    values = online(encode(places)).gather(1, torch.tensor(actions)[:, None]).squeeze(1)
    loss = F.smooth_l1_loss(values, goal)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(online.parameters(), 1.0)
    optimizer.step()

    if step % 10 == 0:
        target.load_state_dict(online.state_dict())
        print(f"step {step}: loss {loss.item():.4f}, reward so far {returns}")
