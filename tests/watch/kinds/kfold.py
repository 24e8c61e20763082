"""Cross-validation: each fold has its own model, and is the held-out data once."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

torch.manual_seed(0)
FOLDS = 3

labels = torch.arange(90) * 3 // 90
data = TensorDataset(torch.randn(90, 6) + labels[:, None], labels)
order = torch.randperm(len(data))
accuracies = []

for fold in range(FOLDS):
    held_out = order[fold::FOLDS]
    rest = torch.cat([order[other::FOLDS] for other in range(FOLDS) if other != fold])
    train_loader = DataLoader(Subset(data, rest.tolist()), batch_size=16, shuffle=True)
    test_loader = DataLoader(Subset(data, held_out.tolist()), batch_size=16)

    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    model.eval()
    right = 0
    with torch.no_grad():
        for x, y in test_loader:
            right += (model(x).argmax(dim=1) == y).sum().item()
    accuracies.append(right / len(test_loader.dataset))
    print(f"fold {fold}: accuracy {accuracies[-1]:.3f}")

print(f"mean accuracy {sum(accuracies) / FOLDS:.3f}")
