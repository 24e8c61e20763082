"""Checks of the forward pass: examples apart, inputs left alone, chance off, one device."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dlconcepts.checks.batches import describe
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import broken, law, not_checked
from dlconcepts.checks.trees import bits, copied, distance, floats, on_tensors, rounding, same
from dlconcepts.checks.trees import tensors as tensors_in

SEEDS = (1, 2, 3)
OTHER_DEVICE = ("same device", "expected device", "at least two devices", "device type of")


@law(
    claim="networks.batch-is-dimension-zero",
    concept="Examples mixed across the batch",
    why="the prediction for an example then depends on its neighbours, and changes with the batch",
    fix="work along the other dimensions only: dim=1, dim=-1, batch_first=True, x.flatten(1)",
    needs=("model", "batch"),
    reproducer="""
model.eval()
others = inputs.clone()
others[1:] = others[:1]
assert torch.allclose(model(inputs)[0], model(others)[0], atol=1e-4)
""",
)
def check_examples_stay_apart(project: Project) -> None:
    """Check that in eval mode the output for an example depends on that example alone."""
    n = project.count()
    if n < 2:
        not_checked("needs a batch of at least 2 examples")
    if project.ambiguous():
        not_checked("needs batch_dim: both the first two dimensions are as long as the batch")
    whole = forward(project, project.inputs())
    dims = example_dims(project, whole)
    if not dims:
        not_checked("needs an output with a dimension that counts the examples")
    for kept in torch.arange(n, device="cpu").tensor_split([(n + 1) // 2]):
        outputs = floats(forward(project, neighbours_replaced(project, kept)))
        for path, dim in dims.items():
            before = floats(whole)[path].index_select(dim, kept)
            after = outputs[path].index_select(dim, kept)
            if (apart := distance(before, after)) > rounding(before):
                broken(
                    f"other examples in the batch changed the output{path} of {len(kept)} examples "
                    f"that stayed the same, by {apart:.2g} of its largest value"
                )


def neighbours_replaced(project: Project, kept: Tensor) -> Any:
    """Return the inputs with all examples but the kept ones replaced by copies of those."""
    n = project.count()
    rows = torch.arange(n, device="cpu")
    others = rows[~torch.isin(rows, kept)]
    rows[others] = kept[torch.arange(len(others), device="cpu") % len(kept)]
    inputs = project.inputs()
    replaced = project.pick(inputs, rows)
    if same(replaced, inputs):
        replaced = halved(project, replaced, others)
    return replaced


def halved(project: Project, inputs: Any, rows: Tensor) -> Any:
    """Return inputs, whose examples are all the same, with the values of some halved."""
    if not any(bool(x.any()) for x in floats(inputs).values()):
        not_checked("needs examples that differ: all of the batch are the same")

    def half(tensor: Tensor) -> Tensor:
        dim = project.dim(tensor)
        if dim is None or not tensor.is_floating_point():
            return tensor
        some = rows.to(tensor.device)
        return tensor.index_copy(dim, some, tensor.index_select(dim, some) / 2)

    return on_tensors(inputs, half)


def forward(project: Project, inputs: Any, *, seed: int = 0) -> Any:
    """Return what a fresh copy in eval mode makes of inputs, on the CPU."""
    model = project.fresh(training=False)
    with torch.no_grad():
        outputs = project.run(model, inputs, seed=seed)
    return on_tensors(copied(outputs), lambda tensor: tensor.cpu())


def example_dims(project: Project, outputs: Any) -> dict[str, int]:
    """Return for each output which dimension counts the examples: the one that follows them."""
    n = project.count()
    found = floats(outputs)
    try:
        fewer = floats(forward(project, project.pick(project.inputs(), torch.arange(n - 1))))
    except Exception:  # a model for batches of one size only
        return {path: 0 for path, out in found.items() if out.ndim and len(out) == n}
    dims: dict[str, int] = {}
    for path, output in found.items():
        shape, other = output.shape, fewer[path].shape if path in fewer else ()
        if len(shape) == len(other):
            for dim, sizes in enumerate(zip(shape, other, strict=True)):
                if sizes == (n, n - 1):
                    dims[path] = dim
    return dims


@law(
    claim="networks.softmax-is-a-distribution",
    concept="Softmax over the batch dimension",
    why="each class then shares its probability among the examples, and no row is a distribution",
    fix="softmax(dim=1), or dim=-1: the dimension of the classes",
    needs=("model", "batch"),
    reproducer="""
outputs = model.eval()(inputs)
outputs = outputs.exp() if (outputs <= 0).all() else outputs
assert not torch.allclose(outputs.sum(dim=0), torch.ones(outputs.shape[1]), atol=1e-4)
""",
)
def check_softmax_is_over_the_classes(project: Project) -> None:
    """Check that neither the model nor predict normalises over the examples."""
    if project.count() < 2:
        not_checked("needs a batch of at least 2 examples")
    seen = {"the model": forward(project, project.inputs())}
    if project.predict is not None:
        seen["predict"] = project.predict(project.fresh(), project.inputs())
    for name, outputs in seen.items():
        for path, output in floats(outputs).items():
            if sums_to_one(output, 0) and not sums_to_one(output, 1):
                row = output.detach().double()
                row = row.exp() if bool((row <= 0).all()) else row
                broken(
                    f"in what {name} returned{path}, {describe(output)}, each class sums to 1 over "
                    f"the {len(output)} examples, but the first example's classes sum to "
                    f"{row[0].sum(dim=0).flatten()[0]:.3g}"
                )


def sums_to_one(output: Tensor, dim: int) -> bool:
    """Return whether probabilities, or the exponentials of their logarithms, sum to 1 along dim."""
    if output.ndim < 2 or output.shape[0] < 2 or output.shape[1] < 2:
        return False
    values = output.detach().double()
    values = values.exp() if bool((values <= 0).all()) else values
    return bool((values >= 0).all() and ((values.sum(dim=dim) - 1).abs() < 1e-2).all())


@law(
    claim="tensors.underscore-mutates",
    concept="Input modified in place",
    why="the caller's data changes with every pass; an array that shares the memory does too",
    fix="use the version without underscore, x = x - mean for x -= mean, or clone() first",
    needs=("model", "batch"),
    reproducer="""
before = inputs.clone(), targets.clone(), inputs._version, targets._version
train_step(model, loss_fn, optimizer, inputs, targets)
assert torch.equal(inputs, before[0]) and torch.equal(targets, before[1])
assert (inputs._version, targets._version) == before[2:]
""",
)
def check_inputs_are_left_alone(project: Project) -> None:
    """Check that model, loss, train_step, predict and accuracy leave what they are given alone."""
    for name, use in users(project).items():
        inputs, targets = project.inputs(), project.targets()
        given = {"inputs": inputs, "targets": targets}
        if name in ("the loss", "accuracy"):
            outputs = project.run(project.fresh(training=False), project.inputs())
            given = {"outputs": copied(detached(outputs)), "targets": targets}
        before = {what: (copied(tree), marks(tree)) for what, tree in given.items()}
        use(*given.values())
        for what, tree in given.items():
            look_for_writes(f"the {what} that {name} was given", tree, *before[what])


def users(project: Project) -> dict[str, Any]:
    """Return the parts of a project that are given data, by name."""
    found: dict[str, Callable[[Any, Any], object]] = {
        "the model in training": lambda x, y: run_as_given(project, True, x),
        "the model in eval mode": lambda x, y: run_as_given(project, False, x),
    }
    if project.predict is not None:
        found["predict"] = lambda x, y: project.predict(project.fresh(), x)
    if not project.has("targets"):
        return found
    if project.loss_fn is not None:
        found["the loss"] = lambda outputs, y: project.loss_fn(outputs, y)
    if project.accuracy is not None:
        found["accuracy"] = lambda outputs, y: project.accuracy(outputs, y)
    if project.train_step is not None and project.optimizer is not None:

        def train(x: Any, y: Any) -> None:
            model, optimizer = project.fresh_pair()
            project.train_step(model, project.loss_fn, optimizer, x, y)

        found["train_step"] = train
    return found


def run_as_given(project: Project, training: bool, inputs: Any) -> None:
    """Run the model on inputs that are not copied first."""
    model = project.fresh(training=training)
    with torch.set_grad_enabled(training):
        project.run(model, inputs)


def detached(tree: Any) -> Any:
    """Return a structure whose tensors have no history."""
    return on_tensors(tree, lambda tensor: tensor.detach())


def marks(tree: Any) -> dict[str, tuple[int, bool]]:
    """Return how often each tensor was written to, and whether it requires a gradient."""
    return {path: (x._version, x.requires_grad) for path, x in tensors_in(tree).items()}


def look_for_writes(what: str, tree: Any, before: Any, marked: dict[str, tuple[int, bool]]) -> None:
    """Fail if a structure, a tensor in it, or its version counter is not as before."""
    old, new = tensors_in(before), tensors_in(tree)
    if old.keys() != new.keys():
        gone = ", ".join(sorted(old.keys() ^ new.keys()))
        broken(f"{what} lost or gained {gone}")
    for path, tensor in new.items():
        if tensor.shape != old[path].shape:
            shapes = f"{describe(old[path])} to {describe(tensor)}"
            broken(f"{what}{path} changed shape from {shapes}")
        if bits(tensor) != bits(old[path]):
            share = (tensor.detach() != old[path]).double().mean().item()
            broken(f"{share:.0%} of the elements of {what}{path} changed")
        if tensor._version != marked[path][0]:
            broken(f"{what}{path} was written to, though with the values that it had")
        if tensor.requires_grad != marked[path][1]:
            broken(f"{what}{path} requires a gradient now")


@law(
    claim="validation.dropout-is-for-training",
    concept="Dropout that stays on",
    why="predictions then differ from call to call, and are worse than the model can do",
    fix="nn.Dropout in __init__, or F.dropout(x, p, training=self.training): its default is True",
    needs=("model", "batch"),
    reproducer="""
model.eval()
first = predict(model, inputs) if predict else model(inputs)
second = predict(model, inputs) if predict else model(inputs)
assert torch.equal(first, second)
""",
)
def check_eval_mode_leaves_nothing_to_chance(project: Project) -> None:
    """Check that in eval mode the outputs are the same whatever the random numbers are."""
    runs = [forward(project, project.inputs(), seed=seed) for seed in (*SEEDS, SEEDS[0])]
    noise = {path: distance(output, floats(runs[-1])[path]) for path, output in in_run(runs[0])}
    for other in runs[1:-1]:
        for path, output in in_run(runs[0]):
            apart = distance(output, floats(other)[path])
            if apart > 8 * noise[path] + rounding(output) / 16:
                broken(
                    f"in eval mode two passes over one batch gave outputs{path} that differ by "
                    f"{apart:.2g} of their largest value"
                )


def in_run(outputs: Any) -> list[tuple[str, Tensor]]:
    """Return the floating-point outputs with their paths."""
    return list(floats(outputs).items())


@law(
    claim="devices.model-to-device",
    concept="Tensors left on another device",
    why="model.to(device) moves parameters and buffers only: on a GPU the forward pass raises",
    fix="register_buffer(name, tensor) for constants; device=x.device for what forward makes",
    needs=("model", "batch"),
    reproducer="""
from copy import deepcopy
elsewhere = deepcopy(model).to("meta")
try:
    elsewhere(inputs.to("meta"))
    message = ""
except (RuntimeError, NotImplementedError) as error:
    message = str(error)
assert "device" not in message, message
""",
)
def check_the_model_moves_as_a_whole(project: Project) -> None:
    """Check that after to(device) the forward pass runs: on the meta device, which all have."""
    model = project.fresh(training=False)
    if not project.copies:
        not_checked("needs a model that can be copied")
    project.watch(model.to("meta"))
    inputs = on_tensors(project.inputs(), lambda tensor: tensor.to("meta"))
    try:
        with torch.no_grad():
            project.run(model, inputs)
    except Exception as error:  # what an operator without a meta version raises is its own
        message = " ".join(str(error).split())
        if not any(words in message.lower() for words in OTHER_DEVICE):
            not_checked(f"the meta device does not run this model: {message[:80]}")
        left = plain_tensors(model)
        names = f"; plain attributes stay behind: {', '.join(left)}" if left else ""
        broken(f"after model.to(device) the forward pass raised: {message[:120]}{names}")


def plain_tensors(model: nn.Module) -> list[str]:
    """Return the attributes that hold tensors which are neither parameters nor buffers."""
    return [
        f"{name}.{attribute}".lstrip(".")
        for name, part in model.named_modules()
        for attribute, value in vars(part).items()
        if isinstance(value, Tensor)
    ]
