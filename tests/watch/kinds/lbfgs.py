"""L-BFGS evaluates the loss several times a step, through a closure, on all the data."""

import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)

x = torch.linspace(-2, 2, 60)[:, None]
y = (2 * x).sin() + 0.05 * torch.randn_like(x)
held_out = torch.rand(60) < 0.25
train_x, train_y, test_x, test_y = x[~held_out], y[~held_out], x[held_out], y[held_out]

model = nn.Sequential(nn.Linear(1, 12), nn.Tanh(), nn.Linear(12, 1))
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")

for step in range(10):
    model.train()

    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(train_x), train_y)
        loss.backward()
        return loss

    loss = optimizer.step(closure)

    model.eval()
    with torch.no_grad():
        test_loss = F.mse_loss(model(test_x), test_y)
    print(f"step {step}: training {loss.item():.4f}, test {test_loss.item():.4f}")
