"""A run that is stopped after two epochs, and resumed from its checkpoint for two more."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
CHECKPOINT = Path("checkpoint.pt")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(6, 20)
        self.norm = nn.BatchNorm1d(20)
        self.out = nn.Linear(20, 3)

    def forward(self, x):
        return self.out(F.relu(self.norm(self.hidden(x))))


def make_data(count):
    y = torch.arange(count) * 3 // count
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


def main(epochs):
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
    start = 0
    if CHECKPOINT.exists():
        checkpoint = torch.load(CHECKPOINT, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        start = checkpoint["epoch"] + 1

    for epoch in range(start, epochs):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        scheduler.step()
        print(f"epoch {epoch}: training {loss.item():.4f}")
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "epoch": epoch,
            },
            CHECKPOINT,
        )


train_loader = DataLoader(make_data(80), batch_size=16, shuffle=True)
CHECKPOINT.unlink(missing_ok=True)
main(epochs=2)
main(epochs=4)
