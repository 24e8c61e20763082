"""Checks of the forward pass: separate examples, unchanged inputs, no chance, one device."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dlconcepts.checks.batches import describe
from dlconcepts.checks.project import Project, attributes
from dlconcepts.checks.recording import Calls, loss_arguments
from dlconcepts.checks.registry import NotCheckedError, broken, law, not_checked
from dlconcepts.checks.settings import draws
from dlconcepts.checks.state import parts_of
from dlconcepts.checks.trees import all_bits, bits, copied, distance, floats, on_tensors, rounding
from dlconcepts.checks.trees import tensors as tensors_in

SEEDS = (1, 2, 3)  # a layer that drops rarely may drop the same twice
DEVICES = ("cpu", "cuda", "cuda:0", "mps")
SAMPLED = ("multinomial", "bernoulli", "gumbel_softmax", "normal")
# What PyTorch's errors about tensors on different devices say.
OTHER_DEVICE = ("same device", "expected device", "at least two devices", "device type of")


@law(
    claim="networks.batch-is-dimension-zero",
    concept="Examples mixed across the batch",
    why="the prediction for an example then depends on its neighbours, and changes with the batch",
    fix="work along the other dimensions only: dim=1, dim=-1, batch_first=True, x.flatten(1); if "
    "examples depend on each other by design, except_for={'examples-stay-apart': 'why'}",
    reproducer="""
model.eval()
others = inputs.clone()
others[1:] = others[:1]
assert torch.allclose(model(inputs)[0], model(others)[0], atol=1e-4)
""",
)
def check_examples_stay_apart(project: Project) -> None:
    """Check that in eval mode the output for an example depends on that example alone."""
    n = at_least(project, 2)
    if project.ambiguous():
        not_checked("needs batch_dim: either of two dimensions may count the examples")
    whole = forward(project, project.whole())
    dims = example_dims(project, whole)
    if not dims:
        not_checked("needs an output with a dimension that counts the examples")
    # Each half of the batch in turn stays the same while the other half changes; and every second
    # example does, since a view that joins neighbours mixes nothing across contiguous halves.
    rows = torch.arange(n, device="cpu")
    for kept in (*rows.tensor_split([(n + 1) // 2]), rows[::2], rows[1::2]):
        outputs = forward(project, neighbours_replaced(project, kept))
        for path, dim in dims.items():
            before, after = (floats(out)[path].index_select(dim, kept) for out in (whole, outputs))
            for axis, sizes in enumerate(zip(before.shape, after.shape, strict=True)):
                # Padding is as long as the longest example.
                before, after = (x.narrow(axis, 0, min(sizes)) for x in (before, after))
            if (apart := distance(before, after)) > rounding(before):
                broken(
                    f"other examples in the batch changed the output{path} of {len(kept)} examples "
                    f"that stayed the same, by {apart:.2g} of its largest value"
                )


def at_least(project: Project, examples: int) -> int:
    """Return how many examples the batch has, if it has enough for a check."""
    if project.count() < examples:
        not_checked(f"needs a batch of at least {examples} examples")
    return project.count()


def neighbours_replaced(project: Project, kept: Tensor) -> Any:
    """Return the batch with copies of the kept examples in place of all others."""
    n = project.count()
    rows = torch.arange(n, device="cpu")
    others = rows[~torch.isin(rows, kept)]
    rows[others] = kept[torch.arange(len(others), device="cpu") % len(kept)]
    replaced = project.pick(project.whole(), rows)
    inputs = project.inputs()
    if all_bits(project.split(replaced)[0]) != all_bits(inputs):
        return replaced
    # All examples are the same, such as torch.ones. Halve the values of the others instead.
    if not any(bool(x.any()) for x in floats(inputs).values()):
        not_checked("needs examples that differ: all in the batch are the same")

    def half(x: Tensor) -> Tensor:
        dim, some = project.dim(x), others.to(x.device)
        if dim is None or not x.is_floating_point() or x.layout != torch.strided:
            return x
        return x.index_copy(dim, some, x.index_select(dim, some) / 2)

    return on_tensors(replaced, half)


def forward(project: Project, batch: Any, *, seed: int = 0) -> Any:
    """Return the outputs of a fresh copy in eval mode, on the CPU."""
    return on_tensors(copied(project.outputs(batch, seed=seed)), lambda tensor: tensor.cpu())


def example_dims(project: Project, outputs: Any) -> dict[str, int]:
    """Return for each output which dimension shrinks if the batch has one example less."""
    n = project.count()
    found = floats(outputs)
    try:
        fewer = floats(forward(project, project.pick(project.whole(), torch.arange(n - 1))))
    except NotCheckedError:
        raise
    except Exception:  # some models take batches of one size only
        return {path: 0 for path, out in found.items() if out.ndim and len(out) == n}
    dims: dict[str, int] = {}
    for path in found:
        if path in fewer and found[path].ndim == fewer[path].ndim:
            for dim, sizes in enumerate(zip(found[path].shape, fewer[path].shape, strict=True)):
                if sizes == (n, n - 1):
                    dims[path] = dim
    return dims


@law(
    claim="networks.softmax-is-a-distribution",
    concept="Softmax over the batch dimension",
    why="each class then shares its probability among the examples, and no row is a distribution",
    fix="softmax(dim=1), or dim=-1: the dimension of the classes",
    reproducer="""
outputs = model.eval()(inputs)
outputs = outputs.exp() if (outputs <= 0).all() else outputs
assert not torch.allclose(outputs.sum(dim=0), torch.ones(outputs.shape[1]), atol=1e-4)
""",
)
def check_softmax_is_over_the_classes(project: Project) -> None:
    """Check that neither the model nor predict normalises over the examples."""
    at_least(project, 2)
    seen = {"the model": forward(project, project.whole())}
    if project.predict is not None:
        seen["predict"] = project.predict(project.fresh(), project.inputs())
    for name, outputs in seen.items():
        for path, output in floats(outputs).items():
            if sums_to_one(output, 0) and not sums_to_one(output, 1):
                first = probabilities(output)[0].sum(dim=0).flatten()[0]
                broken(
                    f"in what {name} returned{path}, {describe(output)}, each class sums to 1 over "
                    f"the {len(output)} examples, but the classes of the first example sum to "
                    f"{first:.3g}"
                )


def probabilities(output: Tensor) -> Tensor:
    """Return an output as it is, or the exponentials of what may be log-probabilities."""
    values = output.detach().double()
    return values.exp() if bool((values <= 0).all()) else values


def sums_to_one(output: Tensor, dim: int) -> bool:
    if output.ndim < 2 or output.shape[0] < 2 or output.shape[1] < 2:
        return False
    values = probabilities(output)
    # 1e-2: half-precision probabilities of many classes sum to 1 only roughly.
    return bool((values >= 0).all() and ((values.sum(dim=dim) - 1).abs() < 1e-2).all())


@law(
    claim="tensors.underscore-mutates",
    concept="Input modified in place",
    why="the caller's data changes with every pass, and so does an array that shares its memory",
    fix="use the function without underscore, x = x - mean for x -= mean, or clone() first",
    reproducer="""
before = inputs.clone(), targets.clone(), inputs._version, targets._version
train_step(model, loss_fn, optimizer, inputs, targets)
assert torch.equal(inputs, before[0]) and torch.equal(targets, before[1])
assert (inputs._version, targets._version) == before[2:]
""",
)
def check_inputs_are_left_alone(project: Project) -> None:
    """Check that model, loss, train_step, predict and accuracy do not write to their arguments."""
    for name, use in users(project).items():
        batch = project.whole()
        inputs, targets = project.split(batch)
        given = {"inputs": inputs, "targets": targets}
        if name in ("the loss", "accuracy"):
            given = {"outputs": copied(project.outputs()), "targets": targets}
        if name == "the loss" and project.trainer != "a plain step":
            arguments = on_tensors(loss_arguments(project), lambda x: x.detach().clone())
            names = ("outputs", "targets", *map("argument {}".format, range(3, 9)))
            given = dict(zip(names, arguments, strict=False))
        before = {what: records(tree) for what, tree in given.items()}
        use(*([batch] if name.startswith("the model") else given.values()))
        for what, tree in given.items():
            look_for_writes(f"the {what} that {name} was given", tensors_in(tree), before[what])


def users(project: Project) -> dict[str, Callable[..., object]]:
    """Return functions that call the parts of a project, by name."""

    def run(training: bool, batch: Any) -> None:
        model = project.fresh(training=training)
        with torch.set_grad_enabled(training):
            project.feed(model, batch)

    def train(x: Any, y: Any) -> None:
        model, optimizer = project.fresh_pair()
        project.train_step(model, project.loss_fn, optimizer, x, y)

    found: dict[str, Callable[..., object]] = {
        "the model in training": partial(run, True),
        "the model in eval mode": partial(run, False),
    }
    if project.predict is not None:
        found["predict"] = lambda x, y: project.predict(project.fresh(), x)
    if project.loss_fn is not None and loss_arguments(project):
        found["the loss"] = project.loss_fn
    if project.has("targets") and project.accuracy is not None:
        found["accuracy"] = project.accuracy
    # With a loader, another check sees whether its writes reach the data; Mixup may write.
    if project.train_step is not None and not project.has("loader"):
        found["train_step"] = train
    return found


Record = tuple[Tensor, int, bool]


def records(tree: Any) -> dict[str, Record]:
    """Return a copy of each tensor, its version counter, and whether it requires a gradient."""
    found = tensors_in(tree).items()
    return {path: (x.detach().clone(), x._version, x.requires_grad) for path, x in found}


def look_for_writes(what: str, new: dict[str, Tensor], before: dict[str, Record]) -> None:
    if before.keys() != new.keys():
        broken(f"{what} lost or gained {', '.join(sorted(before.keys() ^ new.keys()))}")
    for path, tensor in new.items():
        old, version, needs = before[path]
        if tensor.shape != old.shape:
            broken(f"{what}{path} changed shape: {describe(old)} to {describe(tensor)}")
        if bits(tensor) != bits(old):
            share = (tensor.detach() != old).double().mean().item()
            broken(f"{share:.0%} of the elements of {what}{path} changed")
        if tensor._version != version:
            broken(f"{what}{path} was written to, though with the values that it had")
        if tensor.requires_grad != needs:
            broken(f"{what}{path} requires a gradient now")


@law(
    claim="validation.dropout-is-for-training",
    concept="Dropout that stays on",
    why="predictions then differ from call to call, and are worse than they could be",
    fix="nn.Dropout in __init__, or F.dropout(x, p, training=self.training): its default is True",
    reproducer="""
model.eval()
first, second = (predict(model, inputs) if predict else model(inputs) for _ in range(2))
assert torch.equal(first, second)
""",
)
def check_eval_mode_leaves_nothing_to_chance(project: Project) -> None:
    """Check that in eval mode the outputs do not depend on the random seed."""
    seeds = *SEEDS, SEEDS[0]  # the first seed again shows how far the device itself varies
    first, *others, again = (floats(forward(project, project.whole(), seed=s)) for s in seeds)
    for other in others:
        for path, output in first.items():
            apart = distance(output, other[path])
            if apart > 8 * distance(output, again[path]) + rounding(output) / 16:
                if samples(project):
                    not_checked("needs a model that draws no samples: it computes their spread")
                broken(
                    f"in eval mode two passes over one batch gave outputs{path} that differ by "
                    f"{apart:.2g} of their largest value"
                )

    def use(training: bool) -> None:
        project.feed(project.fresh(training=training), project.whole(), seed=1)

    if not draws(partial(use, True)) and not draws(partial(use, False)):
        not_checked("needs a model that draws random numbers, in dropout for instance")


def samples(project: Project) -> bool:
    """Return whether a model samples on purpose, as a variational autoencoder does.

    It then scales random numbers, or chances, by what it computes itself.
    """
    noise: list[Any] = []
    on_purpose: list[str] = []

    def look(name: str, arguments: list[Any], result: Any) -> None:
        given = list(tensors_in(arguments).values())
        computed = any(x.grad_fn is not None for x in given)
        noisy = any(x is other for x in given for other in noise)
        if computed and (name in SAMPLED or (noisy and name in ("mul", "rmul", "multiply"))):
            on_purpose.append(name)
        noise.extend([result] if name in ("randn", "randn_like", "normal") else [])

    with torch.enable_grad(), Calls(look):
        project.feed(project.fresh(training=False), project.whole())
    return bool(on_purpose)


@law(
    claim="devices.model-to-device",
    concept="Tensors left on another device",
    why="model.to(device) moves parameters and buffers only: on a GPU the forward pass raises",
    fix="register_buffer(name, tensor) for constants; device=x.device for what forward makes",
    reproducer="""
from copy import deepcopy
try:
    deepcopy(model).to("meta")(inputs.to("meta"))
except (RuntimeError, NotImplementedError) as error:
    assert "device" not in str(error), error
""",
)
def check_the_model_moves_as_a_whole(project: Project) -> None:
    """Check that the forward pass runs after to(device); every machine has the meta device."""
    model = project.fresh(training=False)
    if not project.copies:
        not_checked("needs a model that can be copied")
    try:
        batch = on_tensors(project.whole(), lambda tensor: tensor.to("meta"))
        with torch.no_grad():
            project.feed(model.to("meta"), batch)
    except Exception as error:  # an operator without a meta version may raise anything
        message = " ".join(str(error).split())
        if not any(words in message.lower() for words in OTHER_DEVICE):
            not_checked(f"the meta device does not run this model: {message[:80]}")
        held = [value for _, value in attributes(model)]
        for part in model.modules():
            held += parts_of(inspect.unwrap(type(part).forward))
        if any(type(x) is torch.device or (type(x) is str and x in DEVICES) for x in held):
            not_checked("needs a forward that does not name the device that the script chose")
        left = [name for name, value in attributes(model) if isinstance(value, Tensor)]
        stay = f"; plain attributes stay behind: {', '.join(left)}" if left else ""
        broken(f"after model.to(device) the forward pass raised: {message[:120]}{stay}")
