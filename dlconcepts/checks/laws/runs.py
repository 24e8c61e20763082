"""The check that a seed repeats a run."""

from typing import Any

import torch

from dlconcepts.checks.copies import build_optimizer
from dlconcepts.checks.laws.steps import STEPS, far, state
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law
from dlconcepts.checks.settings import seed_everything


@law(
    claim="training.same-seed-same-run",
    concept="Seed that does not make the run repeatable",
    why="a result that cannot be had again cannot be compared with anything",
    fix="seed torch, numpy and random before the model is built; no default_rng() without a seed",
    needs=("model", "batch", "targets", "loss_fn", "optimizer"),
    any_of=("fit", "train_step"),
    reproducer="""
from copy import deepcopy
import random, numpy
start, rates, landed = deepcopy(model.state_dict()), deepcopy(optimizer.state_dict()), []
for noise in (1, 2):
    for disturb in (torch.manual_seed, numpy.random.seed, random.seed):
        disturb(noise)
    (seed or torch.manual_seed)(0)
    model.load_state_dict(start)
    optimizer.load_state_dict(deepcopy(rates))
    fit(model, loader, loss_fn, optimizer)
    landed.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
assert torch.equal(*landed)
""",
)
def check_a_seed_repeats_the_run(project: Project) -> None:
    """Check that two runs from one seed, whatever ran before, end with the same weights."""
    before, one = run(project, 1)
    _, other = run(project, 2)
    apart, length = far(one, other), far(before, one)
    on_cpu = all(value.device.type == "cpu" for value in one.values())
    # Other devices add in another order each time, unless they are told not to.
    if apart > (0 if on_cpu else 1e-3 * length):
        how = "the project's seed" if project.seed else "torch, numpy and random seeded"
        share = apart / length if length else float("inf")
        broken(f"two runs with {how} ended {apart:.2g} apart, {share:.0%} of the way they went")


def run(project: Project, noise: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run once from seed 0, after other random numbers; return the weights before and after."""
    project.restore()
    seed_everything(noise)
    built = not isinstance(project.model, torch.nn.Module)
    if not built:
        model, optimizer = project.fresh_pair()
        seed_everything(noise)
    (project.seed or seed_everything)(0)
    if built:
        model = project.watch(project.moved(project.model()))
        optimizer = build_optimizer(project.optimizer, model)
    before = state(model)
    batches = project.batches(*cuts(project.count()))
    for _ in range(STEPS):
        project.train(model, optimizer, batches)
        if far(before, state(model)):
            break
    return before, state(model)


def cuts(count: int) -> tuple[int, ...]:
    """Return the sizes of two batches, or of one where two would be of a single example."""
    return (count - count // 2, count // 2) if count >= 4 else (count,)
