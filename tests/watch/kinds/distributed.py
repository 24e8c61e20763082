"""Distributed data parallel, here with one process, which finds the others through a file."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler


def make_data(count):
    y = torch.arange(count) * 3 // count
    return TensorDataset(torch.randn(count, 5) + y[:, None], y)


def main():
    folder = tempfile.TemporaryDirectory()
    store = dist.FileStore(str(Path(folder.name) / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    torch.manual_seed(0)
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    train_set, test_set = make_data(96), make_data(40)
    sampler = DistributedSampler(train_set, shuffle=True)
    train_loader = DataLoader(train_set, batch_size=16, sampler=sampler)
    test_loader = DataLoader(test_set, batch_size=16)

    for epoch in range(3):
        sampler.set_epoch(epoch)
        model.train()
        for x, y in train_loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

        model.eval()
        sums = torch.zeros(2)
        with torch.no_grad():
            for x, y in test_loader:
                sums += torch.tensor([F.cross_entropy(model(x), y).item() * len(y), len(y)])
        dist.all_reduce(sums)
        if dist.get_rank() == 0:
            print(f"epoch {epoch}: test loss {(sums[0] / sums[1]).item():.3f}")

    dist.destroy_process_group()
    folder.cleanup()


if __name__ == "__main__":
    main()
