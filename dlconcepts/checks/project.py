"""A practitioner's project: its parts, called the way each project has them, on copies."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, Dataset

from dlconcepts.checks.state import Snapshot, reachable, seed_everything
from dlconcepts.checks.trees import copied, leaves, on_tensors, tensors

TARGETS = ("targets", "target", "labels", "label", "y")
MODELS = ("model", "net", "network", "module")
OPTIMIZERS = ("optimizer", "optim", "opt")
EXAMPLES = 8  # how many examples of a data set make a batch
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
            self.device = torch.device(self.device)

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
            self.built = copy.deepcopy(self.model)
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
            self.first = copied(list(split(batch)))
        return self.first[0], self.first[1]

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
        if self.device is not None:
            model.to(self.device)
            if mine is not None:
                mine.load_state_dict(mine.state_dict())
        if training is not None:
            model.train(training)
        if built:
            mine = build_optimizer(self.optimizer, model)
        seed_everything(0)
        return model, mine

    def restore(self, *, thorough: bool | None = None) -> None:
        """Put everything that can be reached back as it was."""
        if self.kept is None:
            self.kept = first = self.reachable()
            if self.model is not None and self.network is not self.model:
                first.restore()  # building the model may have read the data
                self.kept = self.reachable()
            self.copies = self.model is None or copies_alone(self)
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
        return any(x.ndim > 1 and x.shape[:2] == (n, n) for x in tensors(self.example[0]).values())

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


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model: a tuple or list is its positional, a dictionary its named arguments.

    Where its forward does not take them so, the structure is its one argument.
    """
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        signature = inspect.signature(lambda inputs: None)
    try:
        if isinstance(inputs, Mapping):
            signature.bind(**inputs)
            return model(**inputs)
        if isinstance(inputs, (tuple, list)):
            signature.bind(*inputs)
            return model(*inputs)
    except TypeError:
        if not binds(signature, inputs):
            return model(inputs)
        raise
    return model(inputs)


def binds(signature: inspect.Signature, inputs: Any) -> bool:
    """Return whether a signature takes a structure as several arguments."""
    try:
        signature.bind(**inputs) if isinstance(inputs, Mapping) else signature.bind(*inputs)
    except TypeError:
        return False
    return True


def split(batch: Any) -> tuple[Any, Any]:
    """Return the inputs and the targets of a batch, None for targets if there are none.

    A pair is inputs and targets; of more than two, the last are the targets; a dictionary has its
    targets under one of the names targets, target, labels, label or y.

    >>> split({"pixels": 1, "label": 2})
    ({'pixels': 1}, 2)
    """
    if isinstance(batch, Mapping):
        found = [name for name in TARGETS if name in batch]
        inputs = {name: value for name, value in batch.items() if name not in found}
        return inputs, batch[found[0]] if found else None
    if isinstance(batch, (tuple, list)):
        if len(batch) == 1:
            return batch[0], None
        if len(batch) == 2:
            return batch[0], batch[1]
        return tuple(batch[:-1]), batch[-1]
    return batch, None


def is_loader(data: Any) -> bool:
    """Return whether iterating over some data gives batches, and not examples."""
    if data is None or isinstance(data, Dataset) or is_pair(data):
        return False
    return isinstance(data, DataLoader) or hasattr(data, "__iter__")


def is_pair(data: Any) -> bool:
    """Return whether data is a pair of all inputs and all targets."""
    return isinstance(data, (tuple, list)) and len(data) == 2 and all(map(is_stack, data))


def is_stack(value: Any) -> bool:
    """Return whether a value is a tensor or an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def first_batch(data: Any) -> Any:
    """Return the first batch of a loader, or the first examples of a data set."""
    seed_everything(0)
    if is_pair(data):
        return tuple(torch.as_tensor(part[:EXAMPLES]) for part in data)
    if is_loader(data):
        for batch in data:
            return batch
        raise ValueError("the loader gives no batch")
    examples = [data[index] for index in range(min(EXAMPLES, len(data)))]
    return torch.utils.data.default_collate(examples)


class Cut(Dataset[Any]):
    """Batches that a DataLoader hands out one by one, with the number of their examples."""

    def __init__(self, batches: list[tuple[Any, Any]], copies: bool = True) -> None:
        """Remember which example stands where."""
        self.batches, self.copies = batches, copies
        counts = [len(next(iter(tensors(targets).values()))) for _, targets in batches]
        self.where = [(b, i) for b, count in enumerate(counts) for i in range(count)]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.where)

    def __getitem__(self, index: int) -> Any:
        """Return one example."""
        batch, row = self.where[index]
        return on_tensors(tuple(self.batches[batch]), lambda tensor: tensor[row].clone())

    def __getitems__(self, indices: list[int]) -> Any:
        """Return the whole batch that the first of the indices belongs to."""
        batch = self.batches[self.where[indices[0]][0]]
        return list(copied(batch) if self.copies else batch)


def as_is(batch: Any) -> Any:
    """Return a batch that is one already."""
    return batch


def as_loader(batches: list[tuple[Any, Any]], *, copies: bool = True) -> DataLoader[Any]:
    """Return a DataLoader that gives these batches, copied, in this order."""
    data = Cut(batches, copies)
    groups: dict[int, list[int]] = {}
    for index, (batch, _) in enumerate(data.where):
        groups.setdefault(batch, []).append(index)
    return DataLoader(data, batch_sampler=list(groups.values()), collate_fn=as_is)


def build_optimizer(factory: Callable[[Any], Any], model: nn.Module) -> Any:
    """Return the optimizer of a factory, which takes a model or the model's parameters."""
    try:
        name = next(iter(inspect.signature(factory).parameters), "")
    except (TypeError, ValueError):
        name = ""
    ways: list[Callable[[], Any]] = [lambda: model.parameters(), lambda: model]
    if name.lower() in MODELS:
        ways.reverse()
    try:
        return factory(ways[0]())
    except (TypeError, AttributeError):
        return factory(ways[1]())


def copy_together(model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
    """Return copies of a model and of an optimizer that holds the copy's parameters.

    Gradients and the optimizer's state go along. deepcopy forgets both, and what a scheduler
    patched into an optimizer would step the original.
    """
    memo: dict[int, Any] = {}
    twin = copy.deepcopy(model, memo)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        if mine.grad is not None and other.grad is None:
            other.grad = mine.grad.clone()
    if optimizer is None:
        return twin, None
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) not in memo:
                other = copy.deepcopy(parameter, memo)
                other.grad = None if parameter.grad is None else parameter.grad.clone()
    attributes = {
        name: value
        for name, value in vars(optimizer).items()
        if name != "step" and not name.startswith("_optimizer_")
    }
    mine = object.__new__(type(optimizer))
    mine.__setstate__(copy.deepcopy(attributes, memo))
    return twin, mine


def copies_alone(project: Project) -> bool:
    """Return whether a copy of the model is a model of its own, and is all that is used."""
    network = project.network
    functions = [getattr(project, name) for name in CALLABLES]
    if any(part is network for part in reachable(*functions)):
        return False
    optimizer = project.optimizer
    given = optimizer if isinstance(optimizer, torch.optim.Optimizer) else None
    try:
        twin, _ = copy_together(network, given)
    except Exception:  # whatever a deepcopy of somebody's attributes may raise
        return False
    if not all(isinstance(p, nn.Parameter) and p.is_leaf for p in twin.parameters()):
        return False  # such are the copies of a ScriptModule
    own = {id(part) for part in network.modules()} | {id(p) for p in network.parameters()}
    return not any(id(part) in own for part in reachable(twin))


def describe(tree: Any) -> str:
    """Return the shape of a tensor, or those of the tensors in a structure."""
    shapes = [str(tuple(leaf.shape)) for _, leaf in leaves(tree) if isinstance(leaf, Tensor)]
    return ", ".join(shapes)
