"""A practitioner's project: its parts, called the way each project writes them, on copies."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy

from dlconcepts.checks.batches import as_loader, call, first_batch, is_loader, is_used_up, split
from dlconcepts.checks.copies import build_optimizer, copies_alone, copy_together
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.state import Snapshot
from dlconcepts.checks.trees import copied, on_tensors, tensors

CALLABLES = (
    *("loss_fn", "train_step", "fit", "predict", "accuracy", "evaluate"),
    *("save", "load", "snapshot", "seed", "forward"),
)


@dataclass(eq=False, repr=False)
class Project:
    """The parts that `dlconcepts.checks.check` takes, and how the checks use them.

    `fresh` returns a copy of the model for the project's own code to work on. A model that cannot
    be copied, or that the project's functions reach through a global or a closure, is used itself
    and restored afterwards.
    """

    model: Any = None
    batch: Any = None
    data: Any = None
    loader: Any = None
    validation: Any = None
    loss_fn: Any = None
    optimizer: Any = None
    train_step: Any = None
    fit: Any = None
    predict: Any = None
    accuracy: Any = None
    evaluate: Any = None
    save: Any = None
    load: Any = None
    snapshot: Any = None
    seed: Any = None
    forward: Any = None
    frozen: Any = None
    device: Any = None
    batch_dim: int | None = None

    # Results of the checks so far, not parts: forward passes, hooks of the check that runs, models
    # whose passes count, the snapshot to restore, and what is computed once for all checks.
    passes: int = field(default=0, init=False)
    before_forward: Any = field(default=None, init=False)
    after_forward: Any = field(default=None, init=False)
    roots: dict[int, nn.Module] = field(default_factory=dict, init=False)
    kept: Snapshot | None = field(default=None, init=False)
    built: nn.Module | None = field(default=None, init=False)
    copies: bool = field(default=True, init=False)
    first: Any = field(default=None, init=False)
    scored: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        for name in ("model", *CALLABLES):
            part = getattr(self, name)
            if part is not None and not callable(part):
                what = (
                    "a Module or a function that returns one" if name == "model" else "a function"
                )
                raise TypeError(f"{name} is {what}, not a {type(part).__name__}")
        if isinstance(self.frozen, str):
            self.frozen = [self.frozen]
        is_factory = self.model is not None and not isinstance(self.model, nn.Module)
        if is_factory and isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                "a function builds the model, so no optimizer can hold its parameters yet: "
                "give a function for the optimizer too"
            )
        if self.device is not None:
            try:
                self.device = torch.empty((), device=self.device).device
            except (AssertionError, RuntimeError) as error:  # the former if torch has no support
                said = str(error).partition("\n")[0].rstrip(".")
                raise ValueError(
                    f"device {str(self.device)!r} cannot be used here: {said}; leave out device to "
                    "check the model where it is"
                ) from error
            if isinstance(self.loss_fn, nn.Module):
                self.loss_fn = copy.deepcopy(self.loss_fn).to(self.device)

    def has(self, part: str) -> bool:
        """Return whether a project has a part, or another part that gives it."""
        if part == "batch":
            return self.batch is not None or not (self.training_data is None or self.one_pass)
        if part == "targets":
            return self.has("batch") and self.example[1] is not None
        if part == "loader":
            return self.loader is not None or is_loader(self.data)
        if part == "data":
            return self.data is not None or self.loader is not None
        return getattr(self, part) is not None

    @property
    def network(self) -> nn.Module:
        """The model itself, or the one that the factory builds with seed 0."""
        if self.built is None and isinstance(self.model, nn.Module):
            if not any(map(is_lazy, (*self.model.parameters(), *self.model.buffers()))):
                return self.model
            # The first pass gives lazy layers their shapes. The caller's model must stay lazy.
            self.built = self.moved(copy.deepcopy(self.model))
            call(self.built, self.inputs())
        if self.built is None:
            seed_everything(0)
            self.built = self.model()
            if not isinstance(self.built, nn.Module):
                kind = type(self.built).__name__
                raise TypeError(f"the function for the model returned a {kind}, not a Module")
        return self.built

    @property
    def training_data(self) -> Any:
        return self.loader if self.loader is not None else self.data

    @property
    def one_pass(self) -> bool:
        """Whether the training data can be read only once."""
        return is_used_up(self.training_data)

    @property
    def example(self) -> tuple[Any, Any]:
        """Inputs and targets of one batch; targets are None if there are none."""
        if self.first is None:
            batch = first_batch(self.training_data) if self.batch is None else self.batch
            self.first = self.here(copied(list(split(batch))))
        return self.first[0], self.first[1]

    def here(self, tree: Any) -> Any:
        """Move what the data gave to the device of the checks, or of the model if none is given."""
        device = self.device
        if device is None and isinstance(self.model, nn.Module):
            device = next((parameter.device for parameter in self.model.parameters()), None)
        return tree if device is None else on_tensors(tree, lambda tensor: tensor.to(device))

    def inputs(self) -> Any:
        return copied(self.example[0])

    def targets(self) -> Any:
        return copied(self.example[1])

    def repeated(self, times: int) -> list[tuple[Any, Any]]:
        """Return the batch several times, to train on."""
        return [(self.inputs(), self.targets())] * times

    def fresh(self, training: bool | None = None) -> Any:
        return self.fresh_pair(training, optimizer=False)[0]

    def fresh_pair(
        self, training: bool | None = None, *, optimizer: bool = True
    ) -> tuple[nn.Module, Any]:
        """Return a copy of the model and an optimizer over the copy's parameters."""
        network = self.network
        self.restore()
        given = self.optimizer if optimizer else None
        built = given is not None and not isinstance(given, torch.optim.Optimizer)
        if self.copies:
            model, mine = copy_together(network, None if built else given)
        else:
            model, mine = network, None if built else given
        self.roots = {id(model): model}
        self.moved(model)
        if self.device is not None and mine is not None:
            mine.load_state_dict(mine.state_dict())
        if training is not None:
            model.train(training)
        if built:
            mine = build_optimizer(self.optimizer, model)
        seed_everything(0)
        return model, mine

    def moved(self, model: nn.Module) -> nn.Module:
        """Move a model to the device of the checks, if one is given."""
        return model if self.device is None else model.to(self.device)

    def snapshot_of_parts(self) -> Snapshot:
        return Snapshot(*(getattr(self, part) for part in PARTS), self.built)

    def restore(self, *, thorough: bool | None = None) -> None:
        """Restore everything that is reachable from the parts, as it was at the first call."""
        if self.kept is not None:
            # Code that works on copies cannot write to the originals behind their version counters.
            self.kept.restore(thorough=not self.copies if thorough is None else thorough)
            return
        self.kept = first = self.snapshot_of_parts()
        if self.model is not None and self.network is not self.model:
            first.restore()  # building the model may have read the data
            self.kept = self.snapshot_of_parts()
        functions = [getattr(self, name) for name in CALLABLES]
        self.copies = self.model is None or copies_alone(self.network, self.optimizer, functions)

    def watch(self, model: nn.Module) -> nn.Module:
        """Count the passes of another model too."""
        self.roots[id(model)] = model
        return model

    def run(self, model: nn.Module, inputs: Any, *, seed: int = 0) -> Any:
        """Seed, and call the model on inputs that are moved to its device."""
        parameter = next(model.parameters(), None)
        if parameter is not None:
            inputs = on_tensors(inputs, lambda tensor: tensor.to(parameter.device))
        seed_everything(seed)
        return self.forward(model, inputs) if self.forward else call(model, inputs)

    def outputs(self, inputs: Any = None, *, seed: int = 0) -> Any:
        """Return what a fresh model in eval mode predicts, by default for the batch."""
        model = self.fresh(training=False)
        with torch.no_grad():
            return self.run(model, self.inputs() if inputs is None else inputs, seed=seed)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss as one number; a loss without reduction is averaged."""
        output = next(iter(tensors(outputs).values()))
        targets = on_tensors(targets, lambda tensor: tensor.to(output.device))
        loss = self.loss_fn(outputs, targets)
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_fn returned a {type(loss).__name__}, not a tensor")
        return loss if loss.ndim == 0 else loss.mean()

    def train(
        self, model: nn.Module, optimizer: Any, batches: list[tuple[Any, Any]], copies: bool = True
    ) -> Any:
        """Train by the project's fit, its train_step, or a plain step; return what they return."""
        if self.fit is not None:
            return self.fit(model, as_loader(batches, copies=copies), self.loss_fn, optimizer)
        returned = []
        for inputs, targets in map(copied, batches) if copies else batches:
            if self.train_step is not None:
                returned.append(self.train_step(model, self.loss_fn, optimizer, inputs, targets))
            else:
                optimizer.zero_grad()
                self.loss(self.run(model, inputs), targets).backward()
                optimizer.step()
        return returned

    @property
    def trainer(self) -> str:
        return "fit" if self.fit else "train_step" if self.train_step else "a plain step"

    def is_frozen(self, name: str, parameter: Tensor | None = None) -> bool:
        """Return whether `frozen` names a part or its owner; by default, see requires_grad."""
        if self.frozen is None:
            return parameter is not None and not parameter.requires_grad
        return any(name == part or name.startswith(f"{part}.") for part in self.frozen)

    def count(self) -> int:
        """Return how many examples the batch has."""
        inputs, targets = self.example
        of_targets, of_inputs = (
            [tensor.shape for tensor in tensors(tree).values() if tensor.ndim]
            for tree in (targets, inputs)
        )
        sizes = of_targets or of_inputs
        dim = 0 if tensors(targets) else self.batch_dim or 0
        return int(sizes[0][dim]) if sizes else 0

    def dim(self, tensor: Tensor) -> int | None:
        """Return which dimension of an input counts the examples, None if none does."""
        if self.batch_dim is not None:
            return self.batch_dim if tensor.ndim > self.batch_dim else None
        fitting = [dim for dim, size in enumerate(tensor.shape[:2]) if size == self.count()]
        return fitting[0] if fitting else None

    def ambiguous(self) -> bool:
        """Return whether a time-first model meets as many time steps as examples."""
        if self.batch_dim is not None or all(
            getattr(part, "batch_first", True) for part in self.network.modules()
        ):
            return False
        n = self.count()
        return any(x.shape[:2] == (n, n) for x in tensors(self.example[0]).values())

    def pick(self, tree: Any, rows: Tensor) -> Any:
        """Return some examples of the inputs, in the order of the rows."""
        return picked(tree, rows, self.dim)

    def pick_targets(self, tree: Any, rows: Tensor) -> Any:
        n = self.count()
        return picked(tree, rows, lambda x: 0 if x.ndim and len(x) == n else None)

    def batches(self, *sizes: int, targets: Any = None) -> list[tuple[Any, Any]]:
        """Cut the examples of the batch into batches of these sizes."""
        cut, start = [], 0
        targets = self.targets() if targets is None else targets
        for size in sizes:
            rows = torch.arange(start, start + size)
            cut.append((self.pick(self.inputs(), rows), self.pick_targets(targets, rows)))
            start += size
        return cut

    def other_batch(self) -> tuple[Any, Any]:
        """Return the inputs with the targets of other examples, for another gradient."""
        rows = torch.arange(self.count()).roll(1)
        return self.inputs(), self.pick_targets(self.targets(), rows)


PARTS = tuple(part.name for part in fields(Project) if part.init)


def attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of all modules by name; what is registered is in dictionaries there."""
    for name, part in model.named_modules():
        for attribute, value in vars(part).items():
            yield f"{name}.{attribute}".lstrip("."), value


def picked(tree: Any, rows: Tensor, dim_of: Callable[[Tensor], int | None]) -> Any:
    def some(tensor: Tensor) -> Tensor:
        dim = dim_of(tensor)
        return tensor if dim is None else tensor.index_select(dim, rows.to(tensor.device))

    return on_tensors(tree, some)


@contextmanager
def watched(project: Project) -> Iterator[None]:
    """Count the passes of a project's model, and restore everything afterwards."""

    def before(module: nn.Module, arguments: Any) -> None:
        if id(module) in project.roots:
            project.passes += 1
            if project.before_forward is not None:
                project.before_forward(module, arguments)

    def after(module: nn.Module, arguments: Any, output: Any) -> Any:
        if id(module) in project.roots and project.after_forward is not None:
            return project.after_forward(module, output)
        return None

    project.restore()
    try:
        with (
            hooks.register_module_forward_pre_hook(before),
            hooks.register_module_forward_hook(after),
        ):
            yield
    finally:
        project.before_forward = project.after_forward = None
        project.restore(thorough=True)
