"""A student learns from a teacher, which runs in eval mode and without gradients."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
TEMPERATURE = 2.0


def make_data(count):
    y = torch.arange(count) * 3 // count
    return TensorDataset(torch.randn(count, 6) + y[:, None], y)


teacher = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 3))
student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
train_loader = DataLoader(make_data(90), batch_size=16, shuffle=True)
test_loader = DataLoader(make_data(40), batch_size=16)

optimizer = torch.optim.Adam(teacher.parameters(), lr=0.01)
for _ in range(2):
    teacher.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        F.cross_entropy(teacher(x), y).backward()
        optimizer.step()

teacher.eval()
optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
for epoch in range(3):
    student.train()
    for x, y in train_loader:
        with torch.no_grad():
            soft = F.softmax(teacher(x) / TEMPERATURE, dim=1)
        logits = student(x)
        imitation = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, dim=1), soft, reduction="batchmean"
        )
        loss = 0.5 * F.cross_entropy(logits, y) + 0.5 * TEMPERATURE**2 * imitation
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    student.eval()
    right = 0
    with torch.no_grad():
        for x, y in test_loader:
            right += (student(x).argmax(dim=1) == y).sum().item()
    print(f"epoch {epoch}: accuracy {right / len(test_loader.dataset):.3f}")
