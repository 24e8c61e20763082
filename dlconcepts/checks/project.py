"""A practitioner's project: its parts, called the way each project has them, on copies."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy

from dlconcepts.checks.batches import as_loader, call, first_batch, is_loader, split
from dlconcepts.checks.copies import build_optimizer, copies_alone, copy_together
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.state import Snapshot
from dlconcepts.checks.trees import copied, on_tensors, tensors

IN_TRAINING = -1


@dataclass(eq=False)
class Project:
    """The parts that `dlconcepts.checks.check` takes, and how the checks use them.

    `fresh` gives a copy of model and optimizer for the project's own code to work on. A model that
    cannot be copied, or that the project's functions also reach by themselves, is worked on itself
    and put back.
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

    passes: int = field(default=0, init=False)
    before_forward: Any = field(default=None, init=False, repr=False)
    after_forward: Any = field(default=None, init=False, repr=False)
    roots: dict[int, nn.Module] = field(default_factory=dict, init=False, repr=False)
    kept: Snapshot | None = field(default=None, init=False, repr=False)
    built: nn.Module | None = field(default=None, init=False, repr=False)
    copies: bool = field(default=True, init=False, repr=False)
    first: Any = field(default=None, init=False, repr=False)
    scored: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse at once what no check could use."""
        if self.model is not None and not callable(self.model):
            kind = type(self.model).__name__
            raise TypeError(f"model is a Module or a function that returns one, not a {kind}")
        if isinstance(self.frozen, str):
            self.frozen = [self.frozen]
        for name in CALLABLES:
            part = getattr(self, name)
            if part is not None and not callable(part):
                raise TypeError(f"{name} is a function, not a {type(part).__name__}")
        built = self.model is not None and not isinstance(self.model, nn.Module)
        if built and isinstance(self.optimizer, torch.optim.Optimizer):
            raise TypeError(
                "the model is built by a function, so that no optimizer can hold its "
                "parameters yet: give a function for the optimizer too"
            )
        if self.device is not None:
            try:
                self.device = torch.empty((), device=self.device).device
            except (AssertionError, RuntimeError) as error:  # the former without any support for it
                said = str(error).partition("\n")[0].rstrip(".")
                raise ValueError(
                    f"device {str(self.device)!r} cannot be used here: {said}; leave out device to "
                    "check the model where it is"
                ) from error
            if isinstance(self.loss_fn, nn.Module):
                self.loss_fn = copy.deepcopy(self.loss_fn).to(self.device)

    # ------------------------------------------------------------------ what there is

    def has(self, part: str) -> bool:
        """Return whether a project has a part, or another that it can be taken from."""
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
        """The model itself; the one that a factory gives, drawn from a seed of its own."""
        if self.built is None and isinstance(self.model, nn.Module):
            if not any(map(is_lazy, (*self.model.parameters(), *self.model.buffers()))):
                return self.model
            # Its shapes come from the first pass: the caller's model stays without.
            self.built = self.moved(copy.deepcopy(self.model))
            call(self.built, self.inputs())
        if self.built is None:
            seed_everything(0)
            self.built = self.model()
            if not isinstance(self.built, nn.Module):
                kind = type(self.built).__name__
                raise TypeError(f"the model's factory returned a {kind}, not a Module")
        return self.built

    @property
    def training_data(self) -> Any:
        """The data set or loader that the training reads."""
        return self.loader if self.loader is not None else self.data

    @property
    def one_pass(self) -> bool:
        """Return whether the training data is an iterator, which is used up by reading it."""
        data = self.training_data
        return is_loader(data) and iter(data) is data

    @property
    def example(self) -> tuple[Any, Any]:
        """Inputs and targets of one batch, None for targets that there are none of."""
        if self.first is None:
            batch = self.batch
            if batch is None:
                batch = first_batch(self.training_data)
            self.first = self.here(copied(list(split(batch))))
        return self.first[0], self.first[1]

    def here(self, tree: Any) -> Any:
        """Return what the data gave on the device of the checks, or else on that of the model."""
        device = self.device
        if device is None and isinstance(self.model, nn.Module):
            device = next((parameter.device for parameter in self.model.parameters()), None)
        return tree if device is None else on_tensors(tree, lambda tensor: tensor.to(device))

    def inputs(self) -> Any:
        """Return a copy of the inputs of the batch."""
        return copied(self.example[0])

    def targets(self) -> Any:
        """Return a copy of the targets of the batch."""
        return copied(self.example[1])

    # ------------------------------------------------------------------ copies

    def reachable(self) -> Snapshot:
        """Return everything that can be reached from the parts, as it is now."""
        return Snapshot(*(getattr(self, part) for part in PARTS), self.built)

    def fresh(self, training: bool | None = None) -> Any:
        """Return a copy of the model as it was given; whatever came before is undone."""
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
        """Move a model to where the checks run, if not where it is, and return it."""
        return model if self.device is None else model.to(self.device)

    def restore(self, *, thorough: bool | None = None) -> None:
        """Put everything that can be reached back as it was."""
        if self.kept is None:
            self.kept = first = self.reachable()
            if self.model is not None and self.network is not self.model:
                first.restore()  # building the model may have read the data
                self.kept = self.reachable()
            functions = [getattr(self, name) for name in CALLABLES]
            self.copies = self.model is None or copies_alone(
                self.network, self.optimizer, functions
            )
        else:
            self.kept.restore(thorough=not self.copies if thorough is None else thorough)

    def watch(self, model: nn.Module) -> nn.Module:
        """Count the passes of another model too."""
        self.roots[id(model)] = model
        return model

    # ------------------------------------------------------------------ the project's own code

    def run(self, model: nn.Module, inputs: Any, *, seed: int = 0) -> Any:
        """Call the model on inputs, moved to its device, with random numbers of a seed."""
        parameter = next(model.parameters(), None)
        if parameter is not None:
            inputs = on_tensors(inputs, lambda tensor: tensor.to(parameter.device))
        seed_everything(seed)
        return self.forward(model, inputs) if self.forward else call(model, inputs)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss as one number, the mean of those that a loss without reduction gives."""
        output = next(iter(tensors(outputs).values()))
        targets = on_tensors(targets, lambda tensor: tensor.to(output.device))
        loss = self.loss_fn(outputs, targets)
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_fn returned a {type(loss).__name__}, not a tensor")
        return loss if loss.ndim == 0 else loss.mean()

    def train(self, model: nn.Module, optimizer: Any, batches: list[tuple[Any, Any]]) -> Any:
        """Train on some batches as the project does: by its fit, its train_step, or a plain step.

        Return what fit returned, or a list of what each step did.
        """
        if self.fit is not None:
            return self.fit(model, as_loader(batches), self.loss_fn, optimizer)
        returned = []
        for inputs, targets in batches:
            arguments = copied(inputs), copied(targets)
            if self.train_step is not None:
                returned.append(self.train_step(model, self.loss_fn, optimizer, *arguments))
            else:
                optimizer.zero_grad()
                self.loss(self.run(model, arguments[0]), arguments[1]).backward()
                optimizer.step()
        return returned

    @property
    def trainer(self) -> str:
        """Name of the part that trains."""
        return "fit" if self.fit else "train_step" if self.train_step else "a plain step"

    def is_frozen(self, name: str, parameter: Tensor | None = None) -> bool:
        """Return whether a parameter, buffer or module is declared frozen, by its name."""
        if self.frozen is None:
            return parameter is not None and not parameter.requires_grad
        return any(name == part or name.startswith(f"{part}.") for part in self.frozen)

    # ------------------------------------------------------------------ examples

    def count(self) -> int:
        """Return how many examples the batch has."""
        inputs, targets = self.example
        sizes = [tensor.shape for tensor in tensors(targets).values() if tensor.ndim]
        sizes = sizes or [tensor.shape for tensor in tensors(inputs).values() if tensor.ndim]
        if not sizes:
            return 0
        if self.batch_dim and not tensors(targets):
            return int(sizes[0][self.batch_dim])
        return int(sizes[0][0])

    def dim(self, tensor: Tensor) -> int | None:
        """Return which dimension of an input counts the examples, None if none does."""
        if self.batch_dim is not None:
            return self.batch_dim if tensor.ndim > self.batch_dim else None
        fitting = [dim for dim, size in enumerate(tensor.shape[:2]) if size == self.count()]
        return fitting[0] if fitting else None

    def ambiguous(self) -> bool:
        """Return whether a sequence's length is also the number of examples, time perhaps first."""
        if self.batch_dim is not None or all(
            getattr(part, "batch_first", True) for part in self.network.modules()
        ):
            return False
        n = self.count()
        return any(x.shape[:2] == (n, n) for x in tensors(self.example[0]).values())

    def pick(self, tree: Any, rows: Tensor) -> Any:
        """Return some of the examples of inputs, in the order of the rows."""

        def some(tensor: Tensor) -> Tensor:
            dim = self.dim(tensor)
            return tensor if dim is None else tensor.index_select(dim, rows.to(tensor.device))

        return on_tensors(tree, some)

    def pick_targets(self, tree: Any, rows: Tensor) -> Any:
        """Return the targets of some of the examples."""
        n = self.count()
        return on_tensors(
            tree,
            lambda tensor: (
                tensor.index_select(0, rows.to(tensor.device))
                if tensor.ndim and len(tensor) == n
                else tensor
            ),
        )

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
        """Return the inputs with the targets of other examples: a batch with another gradient."""
        rows = torch.arange(self.count()).roll(1)
        return self.inputs(), self.pick_targets(self.targets(), rows)


RESULTS = (
    "passes",
    "before_forward",
    "after_forward",
    "roots",
    "kept",
    "built",
    "copies",
    "first",
    "scored",
)
PARTS = tuple(part.name for part in fields(Project) if part.name not in RESULTS)
CALLABLES = (
    *("loss_fn", "train_step", "fit", "predict", "accuracy", "evaluate"),
    *("save", "load", "snapshot", "seed", "forward"),
)


@contextmanager
def watched(project: Project) -> Iterator[None]:
    """Count the passes of a project's model meanwhile, and put everything back afterwards."""

    def before(module: nn.Module, arguments: Any) -> None:
        if id(module) in project.roots:
            project.passes += 1
            if project.before_forward is not None:
                project.before_forward(module, arguments)

    def after(module: nn.Module, arguments: Any, output: Any) -> Any:
        if id(module) in project.roots and project.after_forward is not None:
            return project.after_forward(module, output)
        return None

    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after),
    ]
    project.restore()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        project.before_forward = project.after_forward = None
        project.restore(thorough=True)
