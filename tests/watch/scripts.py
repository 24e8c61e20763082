"""The projects of the gallery as training scripts.

A project of the gallery is a dictionary of parts. `script(make)` writes what a person would do
with them in train.py: train for some epochs, evaluate after each, keep weights, save, load and
resume. So a mistake in any part happens in the run. `faults(mistake)` says on which lines of the
gallery it is.
"""

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from tests import gallery
from tests.gallery import base
from tests.gallery.base import Mistake, Parts

Make = Callable[[], Parts]

# Whose fault shows where the loss is computed, which may be in the step that all projects share.
ABOUT_THE_LOSS = {
    "cross-entropy-is-given-logits",
    "nll-is-given-log-probabilities",
    "scores-are-not-cut-at-zero",
    "the-loss-pairs-outputs-with-targets",
}

# The laws by which a run may show a mistake that has a law of its own only in `checks`.
STANDS_FOR = {
    "a-checkpoint-holds-the-model": {"a-partial-checkpoint-is-refused"},
    "a-seed-repeats-the-run": set(),
    "a-step-follows-the-gradient": {
        "a-step-follows-its-own-batch",
        "every-parameter-gets-a-gradient",
        "one-step-for-each-backward",
    },
    "accuracy-counts-each-example": {
        "every-example-counts-once",
        "the-loss-pairs-outputs-with-targets",
    },
    "inputs-are-left-alone": {
        "data-is-the-same-when-read-again",
        "shared-memory-is-not-written-to",
    },
    "labels-stay-with-their-inputs": {
        "data-is-the-same-when-read-again",
        "the-loss-pairs-outputs-with-targets",
    },
    "softmax-is-over-the-classes": {"cross-entropy-is-given-logits", "examples-stay-apart"},
    "the-mode-is-restored": {"frozen-statistics-stay", "training-is-in-training-mode"},
    "the-model-moves-as-a-whole": {"every-layer-is-registered"},
    "validation-data-is-left-to-no-chance": {
        "data-is-the-same-when-read-again",
        "eval-mode-leaves-nothing-to-chance",
    },
}
# Whose batches are kept in a list, where one buffer for all would show.
KEEPS_BATCHES = {"fills_one_buffer_again_and_again", "batches_without_shared_memory"}
# Whose evaluation comes once, at the end: after it no gradient is recorded any more.
EVALUATES_AT_THE_END = {"gradients_left_off_after_validation"}
# Which is evaluated while gradients accumulate, where to clear them does harm.
ACCUMULATES = {"gradients_wiped_out_by_validation"}
# Who load an older checkpoint too, which lacks one tensor.
LOADS_AN_OLDER_FILE = "a-partial-checkpoint-is-refused"


def laws_of(mistake: Mistake) -> set[str]:
    """Return the laws that name a mistake."""
    return {mistake.check, *mistake.also} | STANDS_FOR.get(mistake.check, set())


def is_of_pairs(make: Make) -> bool:
    """Say whether a script can be written: of loaders that give pairs, and one optimizer."""
    return make.__module__ != "tests.gallery.forms"


def mistakes() -> list[Mistake]:
    """Return the mistakes of which a script can be written."""
    return [mistake for mistake in gallery.MISTAKES if is_of_pairs(mistake.wrong)]


def controls() -> dict[str, Make]:
    """Return the correct projects: the control of each mistake, and those of other kinds."""
    makes = {mistake.right.__name__: mistake.right for mistake in mistakes()} | gallery.CORRECT
    return {name: make for name, make in makes.items() if is_of_pairs(make)}


# ------------------------------------------------------------------------------ the text


def script(make: Make, check: str = "") -> str:
    """Return the text of a training script for a project; `check` is the law of its mistake."""
    name, parts = make.__name__, make()
    lines = [f'"""{inspect.getdoc(make)}"""', "", "import tempfile", "from pathlib import Path", ""]
    lines += ["import torch", "from torch.utils.data import DataLoader, TensorDataset", ""]
    lines += [f"from {make.__module__} import {name} as project", "", "torch.manual_seed(0)"]
    lines += ["parts = project()"]
    if parts.get("seed"):
        lines += ['parts["seed"](0)']
    if "model" not in parts:
        return written([*lines, *read_only(parts)])
    lines += built(parts)
    if "loss_fn" not in parts:
        return written([*lines, "model.eval()", "with torch.no_grad():", "    print(model(batch))"])
    lines += trained(parts, name)
    if parts.get("save") and name not in EVALUATES_AT_THE_END:
        lines += saved(parts, check == LOADS_AN_OLDER_FILE or name == "classifier")
    return written(lines)


def written(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"


def read_only(parts: Parts) -> list[str]:
    """Return the lines for data without a model."""
    loop = ["for epoch in range(2):", '    for inputs, targets in parts["loader"]:']
    return [*loop, "        print(epoch, inputs.shape, targets.tolist())"]


def optimizer_of(parts: Parts, source: str, model: str) -> str:
    given = parts.get("optimizer")
    if given is None:
        return f"torch.optim.SGD({model}.parameters(), lr=0.01)"
    held = isinstance(given, torch.optim.Optimizer)
    return f'{source}["optimizer"]' if held else f'{source}["optimizer"]({model})'


def model_of(parts: Parts, source: str) -> str:
    return f'{source}["model"]' + ("" if isinstance(parts["model"], nn.Module) else "()")


def built(parts: Parts) -> list[str]:
    """Return the lines that name the model, the optimizer, the batches and the functions."""
    lines = [f"model = {model_of(parts, 'parts')}"]
    if isinstance(parts["batch"], torch.Tensor):
        return [*lines, 'batch = parts["batch"]']
    lines += [f"optimizer = {optimizer_of(parts, 'parts', 'model')}"]
    lines += ['loss_fn = parts["loss_fn"]'] if "loss_fn" in parts else []
    lines += inputs_and_targets(parts["batch"])
    functions = ("train_step", "fit", "evaluate", "predict", "accuracy", "snapshot", "save", "load")
    lines += [f'{part} = parts["{part}"]' for part in functions if parts.get(part)]
    if type(parts.get("loader")) is DataLoader and is_sized(parts["loader"]):
        # The gallery has data for two batches; an epoch of a script has more.
        shuffle = isinstance(parts["loader"].sampler, RandomSampler)
        lines += [f'train_loader = DataLoader(parts["loader"].dataset, 2, shuffle={shuffle})']
    elif parts.get("loader") is not None:
        lines += ['train_loader = parts["loader"]']
    elif isinstance(parts.get("data"), tuple):
        lines += ['train_set = TensorDataset(*map(torch.as_tensor, parts["data"]))']
        lines += ["train_loader = DataLoader(train_set, 8, shuffle=True)"]
    else:
        lines += ["train_loader = [(inputs, targets)]"]
    batches, code = evaluated_on(parts)
    return [*lines, *([f"{batches} = {code}"] if code else [])]


def inputs_and_targets(batch: Any) -> list[str]:
    if isinstance(batch, dict):
        return ['inputs = dict(parts["batch"])', 'targets = inputs.pop("labels")']
    if len(batch) > 2:
        return ['*inputs, targets = parts["batch"]']
    return ['inputs, targets = parts["batch"]']


def is_sized(loader: Any) -> bool:
    """Say whether the functions of the gallery, which count examples, can be given a loader."""
    return hasattr(getattr(loader, "dataset", None), "__len__")


def overlaps(parts: Parts) -> bool:
    """Say whether the validation data of a project has examples of its training data."""
    data, validation = parts["data"], parts["validation"]
    validation = getattr(validation, "dataset", validation)
    if isinstance(data, tuple) or not hasattr(validation, "__len__"):
        return False
    if hasattr(data, "images") and isinstance(data.images, list):  # which transforms change
        return data.images[0].tobytes() == validation.images[0].tobytes()
    value = validation[0][0]
    return any(
        torch.equal(data[place][0], value) for place in range(len(data)) if value.numel() > 1
    )


def evaluated_on(parts: Parts) -> tuple[str, str]:
    """Return the name of what the evaluation is given, and its code: empty if there is nothing."""
    given = parts.get("validation")
    if parts.get("data") is None and parts.get("loader") is None:  # the batch is all there is
        batch = parts["batch"]
        paired = isinstance(batch, tuple) and len(batch) == 2 and len(batch[0]) == len(batch[1])
        code = "DataLoader(TensorDataset(inputs, targets), 4)" if paired else ""
        return "training_data", code
    if given is None or (isinstance(given, DataLoader) and not is_sized(given)):
        return "held_out", ""
    name = "training_data" if overlaps(parts) else "held_out"
    ready = isinstance(given, DataLoader)
    return name, 'parts["validation"]' if ready else 'DataLoader(parts["validation"], 4)'


def trained(parts: Parts, name: str) -> list[str]:
    """Return the lines of training and evaluation."""
    lines = []
    if name in KEEPS_BATCHES:
        lines += ["train_loader = list(train_loader)"]
    if parts.get("train_step"):
        lines += ["", "# First see whether the model can learn one batch."]
        lines += ["for _ in range(3):"]
        lines += ["    print(train_step(model, loss_fn, optimizer, inputs, targets))"]
    lines += ["", "for epoch in range(3):"]
    if name in ACCUMULATES:
        lines += ["    for number, (some_inputs, some_targets) in enumerate(train_loader, 1):"]
        lines += ["        model.train()"]
        lines += ["        (loss_fn(model(some_inputs), some_targets) / 3).backward()"]
        lines += ["        if number % 4 == 0:"]
        lines += ['            print("held_out:", evaluate(model, held_out, loss_fn))']
        lines += ["        if number % 3 == 0:"]
        lines += ["            optimizer.step()", "            optimizer.zero_grad()"]
    elif parts.get("fit") and is_sized(parts.get("loader")):
        lines += ["    print(epoch, fit(model, train_loader, loss_fn, optimizer))"]
    elif parts.get("train_step"):
        lines += ["    for some_inputs, some_targets in train_loader:"]
        lines += ["        train_step(model, loss_fn, optimizer, some_inputs, some_targets)"]
    else:
        lines += ["    model.train()"]
        lines += ["    for some_inputs, some_targets in train_loader:"]
        lines += ["        optimizer.zero_grad()"]
        lines += ["        loss = loss_fn(model(some_inputs), some_targets)"]
        lines += ["        loss.backward()", "        optimizer.step()"]
    batches, code = evaluated_on(parts)
    shown = f'print("{batches}:", evaluate(model, {batches}, loss_fn))'
    evaluates = [shown] if parts.get("evaluate") and code else []
    if name not in EVALUATES_AT_THE_END:
        lines += ["    " + line for line in evaluates]
    if parts.get("snapshot"):
        lines += ["    if epoch == 1:  # the weights to keep", "        best = snapshot(model)"]
        lines += ["model.load_state_dict(best)"]
    lines += evaluates
    if parts.get("predict") and code:
        lines += [f"some_inputs, some_targets = next(iter({batches}))"]
        lines += ['print("predictions:", predict(model, some_inputs))']
    if parts.get("accuracy") and code:
        lines += ["model.eval()", "right, count = 0.0, 0", "with torch.no_grad():"]
        lines += [f"    for some_inputs, some_targets in {batches}:"]
        lines += ["        share = accuracy(model(some_inputs), some_targets)"]
        lines += [
            "        right += share * len(some_targets)",
            "        count += len(some_targets)",
        ]
        lines += ['print("accuracy:", right / count)']
    return lines


def saved(parts: Parts, older: bool) -> list[str]:
    """Return the lines that save a checkpoint, load it into a new project, and resume."""
    whole = len(inspect.signature(parts["load"]).parameters) == 1
    lines = ["", "folder = tempfile.TemporaryDirectory()", 'path = Path(folder.name) / "saved.pt"']
    if whole:
        return [*lines, "save(model, path)", "print(load(path))", "folder.cleanup()"]
    lines += ["save(model, optimizer, path)", "", "resumed = project()"]
    lines += [f"model = {model_of(parts, 'resumed')}"]
    lines += [f"optimizer = {optimizer_of(parts, 'resumed', 'model')}"]
    if older:
        lines += ["# A file of before the model had its last tensor."]
        lines += ["checkpoint = torch.load(path)", 'checkpoint["model"].popitem()']
        lines += ['torch.save(checkpoint, path.with_name("older.pt"))', "try:"]
        lines += ['    load(model, optimizer, path.with_name("older.pt"))']
        lines += ["except RuntimeError as error:", "    print(error)"]
    else:
        lines += ["load(model, optimizer, path)"]
    if parts.get("fit") and is_sized(parts.get("loader")):
        lines += ['print("resumed:", resumed["fit"](model, train_loader, loss_fn, optimizer))']
    elif parts.get("train_step"):
        lines += ['step = resumed["train_step"]']
        lines += ['print("resumed:", step(model, loss_fn, optimizer, inputs, targets))']
    return [*lines, "folder.cleanup()"]


# ------------------------------------------------------------------------- the lines at fault

Source = types.FunctionType | type


def is_ours(value: object) -> bool:
    """Say whether a value is a function or class of the gallery, but not of its base."""
    module = getattr(value, "__module__", None) or ""
    own = module.startswith("tests.gallery.") and module != "tests.gallery.base"
    return own and isinstance(value, types.FunctionType | type)


def named_in(source: Source) -> Iterator[Any]:
    """Yield what a function, or a class by its methods, refers to."""
    if isinstance(source, type):
        yield from source.__bases__
        for value in vars(source).values():
            if isinstance(value, types.FunctionType):
                yield from named_in(value)
        return
    codes = [source.__code__]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        yield from (source.__globals__.get(name) for name in code.co_names)
    yield from (cell.cell_contents for cell in source.__closure__ or ())


@functools.cache
def sources(make: Make) -> frozenset[Source]:
    """Return the functions and classes of the gallery that a project is made of."""
    found: set[Source] = set()
    todo: list[Any] = [inspect.unwrap(make)]
    while todo:
        source = todo.pop()
        if source in found:
            continue
        found.add(source)
        todo += [value for value in named_in(source) if is_ours(value)]
    return frozenset(found)


def faults(mistake: Mistake) -> dict[str, set[int]]:
    """Return, for each file of the gallery, the lines of what a mistake is made of."""
    lines: dict[str, set[int]] = {}
    the_loss = {base.train_step} if mistake.check in ABOUT_THE_LOSS else set()
    for source in sources(mistake.wrong) | the_loss:
        text, start = inspect.getsourcelines(source)
        file = inspect.getsourcefile(source) or ""
        lines.setdefault(file, set()).update(range(start - 3, start + len(text) + 3))
    return lines
