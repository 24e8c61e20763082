"""Weights that are kept without a copy, in ways that load nothing again."""

import pytest

SCRIPT = """
import copy
import torch
import torch.nn.functional as F

torch.manual_seed(0)
x, y = torch.randn(40, 4), torch.arange(40) % 3
model = torch.nn.Linear(4, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
best_model, best_loss = None, float("inf")
for epoch in range(3):
    for rows in torch.randperm(40).split(8):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
    if epoch == 1:
        KEEP
USE
"""
EVALUATE = 'with torch.no_grad():\n    print("test", best_model(x).argmax(dim=1))'
WRONG = {
    "a second name": ("best_model = model", EVALUATE),
    "saved later": ("state = model.state_dict()", 'torch.save(state, "best.pt")'),
    "saved later, by name": ("best_model = model", 'torch.save(best_model.state_dict(), "b.pt")'),
}
RIGHT = {
    "a deep copy": ("best_model = copy.deepcopy(model)", EVALUATE),
    "saved at once": ('torch.save(model.state_dict(), "best.pt")', "pass"),
}
LAW = "kept-weights-are-a-copy"


def broken(runner, folder, keep: str, use: str) -> set[str]:
    text = SCRIPT.replace("KEEP", keep).replace("USE", use)
    return {found["law"] for found in runner.run(text, folder).broken()}


@pytest.mark.parametrize(("keep", "use"), WRONG.values(), ids=WRONG)
def test_the_last_weights_are_not_the_best(runner, keep, use, tmp_path) -> None:
    """What is used as the best is the model that trained on."""
    assert LAW in broken(runner, tmp_path, keep, use)


@pytest.mark.parametrize(("keep", "use"), RIGHT.values(), ids=RIGHT)
def test_a_copy_keeps_the_weights(runner, keep, use, tmp_path) -> None:
    """A deep copy and a file do not change with the model."""
    assert LAW not in broken(runner, tmp_path, keep, use)
