"""A practitioner's project: its parts, called the way each project writes them, on copies."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from functools import cached_property, wraps
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dlconcepts.checks.batches import (
    are_dictionaries,
    as_loader,
    call,
    first_batch,
    is_loader,
    is_used_up,
    not_checked,
    split,
)
from dlconcepts.checks.copies import (
    build_optimizer,
    copies_alone,
    copy_together,
    is_factory,
    optimizers,
)
from dlconcepts.checks.settings import seed_everything
from dlconcepts.checks.state import Snapshot
from dlconcepts.checks.trees import copied, floats, is_bundle, on_tensors, tensors

CALLABLES = (
    *("loss_fn", "train_step", "fit", "predict", "accuracy", "evaluate"),
    *("save", "load", "snapshot", "seed", "forward"),
)
Models = WeakValueDictionary[int, nn.Module]


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
    targets: Any = None

    # Not parts, but what the checks share: the forward passes so far, hooks of the current check,
    # models whose passes count, the snapshot to restore, and what is computed once for all checks.
    passes: int = field(default=0, init=False)
    before_forward: Any = field(default=None, init=False)
    after_forward: Any = field(default=None, init=False)
    roots: Models = field(default_factory=WeakValueDictionary, init=False)
    kept: Snapshot | None = field(default=None, init=False)
    built: nn.Module | None = field(default=None, init=False)
    copies: bool = field(default=True, init=False)
    scored: Any = field(default=None, init=False)
    rearranged: bool = field(default=False, init=False)
    has_no_targets: bool | None = field(default=None, init=False)
    called: nn.Module | None = field(default=None, init=False)
    in_pairs: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        kinds = {"model": "a Module or a function that returns one"}
        for name, kind in (kinds | dict.fromkeys(CALLABLES, "a function")).items():
            part = getattr(self, name)
            if part is not None and not callable(part):
                raise TypeError(f"{name} is {kind}, not a {type(part).__name__}")
        if isinstance(self.frozen, str):
            self.frozen = [self.frozen]
        builds = self.model is not None and not isinstance(self.model, nn.Module)
        if builds and self.optimizer is not None and not is_factory(self.optimizer):
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
            data = self.training_data
            return self.batch is not None or not (data is None or is_used_up(data))
        if part == "targets":
            return self.has("batch") and self.split(self.example)[1] is not None
        if part == "loss":  # a loop or a model may compute its loss itself
            return self.trainer != "a plain step" or self.loss_fn is not None or self.own_loss
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

    @cached_property
    def example(self) -> Any:
        """One batch, in the form that the loader returns."""
        batch = first_batch(self.training_data) if self.batch is None else self.batch
        return self.here(copied(batch))

    def split(self, batch: Any) -> tuple[Any, Any]:
        """Return the inputs and the targets of a batch."""
        inputs, targets = split(batch, self.targets)
        if not self.takes_all:
            return inputs, targets
        return (batch, targets) if isinstance(batch, Mapping) else (tuple(batch), None)

    @property
    def takes_all(self) -> bool:
        """Whether the model needs all parts of the batch, the targets included."""
        if self.has_no_targets is None:
            self.has_no_targets = False  # until it is known, since `runs` asks too
            batch = self.example if self.has("batch") else None
            has_parts = isinstance(batch, (tuple, list, Mapping)) and len(batch) > 2
            if has_parts and self.model is not None and self.targets is None:
                self.has_no_targets = not self.runs(self.inputs()) and self.runs(self.whole())
        return self.has_no_targets

    def runs(self, inputs: Any) -> bool:
        with suppress(Exception):  # the user's code may raise anything
            self.run(self.fresh(training=False), inputs)
            return True
        return False

    def works(self) -> bool:
        """Return whether the model and the loops take the batch as it is."""
        with suppress(Exception):
            self.outputs()
            if self.trainer != "a plain step":
                self.train(*self.fresh_pair(), self.repeated(1))
            if self.evaluate is not None:
                self.loop(self.evaluate, self.fresh(), self.repeated(1))
            return True
        return False

    @cached_property
    def own_loss(self) -> bool:
        """Whether the model computes its loss if it is given the whole batch in training."""
        may = self.has("batch") and (self.takes_all or self.has("targets"))
        if self.loss_fn is None and self.model is not None and may:
            with suppress(Exception), torch.enable_grad():
                return loss_in(call(self.fresh(training=True), self.whole())) is not None
        return False

    def here(self, tree: Any) -> Any:
        """Move what the data gave to the device of the checks, or of the model if none is given."""
        device = self.device
        if device is None and isinstance(self.model, nn.Module):
            device = next((parameter.device for parameter in self.model.parameters()), None)
        return tree if device is None else on_tensors(tree, lambda tensor: tensor.to(device))

    def whole(self) -> Any:
        return copied(self.example)

    def inputs(self) -> Any:
        return self.split(self.whole())[0]

    def with_targets(self, batch: Any, targets: Any) -> Any:
        old, new = (tensors(tree).values() for tree in (self.split(batch)[1], targets))
        replaced = {id(x): y for x, y in zip(old, new, strict=True)}
        return on_tensors(batch, lambda x: replaced.get(id(x), x))

    def repeated(self, times: int) -> list[Any]:
        return [self.whole()] * times

    def fresh(self, training: bool | None = None) -> Any:
        return self.fresh_pair(training, optimizer=False)[0]

    def fresh_pair(
        self, training: bool | None = None, *, optimizer: bool = True
    ) -> tuple[Any, Any]:
        """Return a copy of the model and an optimizer over the copy's parameters."""
        network = self.network
        self.restore()
        given = self.optimizer if optimizer else None
        model, mine = network, None if is_factory(given) else given
        if self.copies:
            model, mine = copy_together(network, mine)
        self.roots[id(model)] = model
        if self.device is not None:
            model.to(self.device)
            for own in optimizers(mine):
                own.load_state_dict(own.state_dict())  # moves the state to the device
        if training is not None:
            model.train(training)
        if is_factory(given):
            mine = build_optimizer(self.optimizer, model)
        seed_everything(0)
        return model, mine

    def moved(self, model: nn.Module) -> nn.Module:
        """Move a model to the device of the checks, if one is given."""
        return model if self.device is None else model.to(self.device)

    def restore(self, *, thorough: bool = False) -> None:
        """Restore everything that is reachable from the parts, as it was at the first call."""
        if self.kept is not None:
            # Code that works on copies cannot write to the originals behind their version counters.
            self.kept.restore(thorough=thorough or not self.copies)
            return
        parts = [getattr(self, part) for part in PARTS]
        self.kept = first = Snapshot(*parts, self.built)
        if self.model is not None and self.network is not self.model:
            first.restore()  # building the model may have read the data
            self.kept = Snapshot(*parts, self.built)
        functions = [getattr(self, name) for name in CALLABLES]
        self.copies = self.model is None or copies_alone(self.network, self.optimizer, functions)
        with suppress(Exception):  # a check that needs the batch will report what is wrong with it
            _ = self.own_loss  # now, since a model that cannot be copied is used for it itself

    def run(self, model: nn.Module, inputs: Any, *, seed: int = 0) -> Any:
        """Seed, and call the model on inputs that are moved to its device."""
        parameter = next(model.parameters(), None)
        if parameter is not None:
            inputs = on_tensors(inputs, lambda tensor: tensor.to(parameter.device))
        seed_everything(seed)
        if self.forward:
            return self.forward(model, inputs)
        is_list = self.has("batch") and are_dictionaries(self.split(self.example)[1])
        return call(model, inputs, whole=is_list)

    def feed(self, model: nn.Module, batch: Any, *, seed: int = 0) -> Any:
        """Give a model what it takes of a batch: all of it if it computes its own loss."""
        if self.own_loss and model.training:
            seed_everything(seed)
            return call(model, batch)
        return self.run(model, self.split(batch)[0], seed=seed)

    def outputs(self, batch: Any = None, *, seed: int = 0) -> Any:
        """Return what a fresh model in eval mode predicts, by default for the batch."""
        model = self.fresh(training=False)
        with torch.no_grad():
            return self.feed(model, self.whole() if batch is None else batch, seed=seed)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss as one number; a loss without reduction is averaged."""
        output = next(iter(tensors(outputs).values()))
        targets = on_tensors(targets, lambda tensor: tensor.to(output.device))
        loss = self.loss_fn(outputs, targets)
        if not isinstance(loss, Tensor):
            raise TypeError(f"loss_fn returned a {type(loss).__name__}, not a tensor")
        return loss if loss.ndim == 0 else loss.mean()

    def loss_of(self, model: nn.Module, batch: Any, *, seed: int = 0) -> Tensor:
        """Return the loss of a batch: the model's own, or that of outputs and targets."""
        outputs = self.feed(model, batch, seed=seed)
        if self.own_loss and (own := loss_in(outputs)) is not None:
            return own
        if (targets := self.split(batch)[1]) is None:
            not_checked("needs targets")
        return self.loss(outputs, targets)

    def train(self, model: Any, optimizer: Any, batches: list[Any], copies: bool = True) -> Any:
        """Train by the project's fit, its train_step, or a plain step; return what fit returns."""
        if self.fit is not None:
            return self.loop(self.fit, model, batches, optimizer, copies=copies)
        with self.complete("loss_fn", "optimizer"):
            for batch in map(copied, batches) if copies else batches:
                if self.train_step is not None:
                    self.train_step(model, self.loss_fn, optimizer, *self.split(batch))
                else:
                    optimizer.zero_grad()
                    self.loss_of(model, batch).backward()
                    optimizer.step()
        return None

    @contextmanager
    def complete(self, *parts: str) -> Iterator[None]:
        """Say which part is not there if a loop turns out to need it."""
        try:
            yield
        except (AttributeError, TypeError) as error:
            lacks = [part for part in parts if getattr(self, part) is None]
            if lacks and "'NoneType'" in str(error):
                not_checked(f"needs {' or '.join(lacks)}")
            raise

    def loop(
        self, run: Any, model: Any, batches: list[Any], *rest: Any, copies: bool = True
    ) -> Any:
        """Call fit or evaluate with a loader of these batches, in the form of the project's."""
        counts = list(map(self.count_of, batches))
        given = list(map(self.split, batches)) if self.in_pairs else batches
        with self.complete("loss_fn", *(["optimizer"] if rest else [])):
            try:
                return run(model, as_loader(given, counts, copies=copies), self.loss_fn, *rest)
            except ValueError as error:
                if self.in_pairs or self.batch is None or "to unpack" not in str(error):
                    raise
        self.in_pairs = True  # the loop unpacks (inputs, targets)
        return self.loop(run, model, batches, *rest, copies=copies)

    @property
    def trainer(self) -> str:
        return "fit" if self.fit else "train_step" if self.train_step else "a plain step"

    def is_frozen(self, name: str, parameter: Tensor | None = None) -> bool:
        """Return whether `frozen` names a part or its owner; by default, see requires_grad."""
        if self.frozen is None:
            return parameter is not None and not parameter.requires_grad
        return any(name == part or name.startswith(f"{part}.") for part in self.frozen)

    def count(self) -> int:
        return self.count_of(self.example)

    def count_of(self, batch: Any) -> int:
        inputs, targets = self.split(batch)
        if are_dictionaries(targets):
            return len(targets)
        parts = (tensors(part).values() for part in (inputs, targets))
        taken, wanted = ([x.shape for x in part if x.ndim] for part in parts)
        if self.batch_dim is not None:
            sizes = [shape[self.batch_dim] for shape in taken if len(shape) > self.batch_dim]
        elif taken and flattened(taken[0], wanted):
            sizes = [taken[0][0]]
        else:
            sizes = [shape[0] for shape in (*wanted, *taken)]
            if len(set(sizes)) > 1 and wanted and not is_bundle(inputs):
                # Time first: the size that all have, as the first or the second dimension.
                common = set.intersection(*(set(shape[:2]) for shape in (*wanted, *taken)))
                sizes = list(common) if len(common) == 1 else sizes
        return sizes[0] if sizes else 0

    def dim(self, tensor: Tensor, n: int | None = None) -> int | None:
        """Return which dimension of a tensor counts the examples, None if none does."""
        n = self.count() if n is None else n
        dims = [0, 1] if self.batch_dim is None else [self.batch_dim, 0]
        return next((dim for dim in dims if dim < tensor.ndim and tensor.shape[dim] == n), None)

    def ambiguous(self) -> bool:
        """Return whether a time-first model meets as many time steps as examples."""
        collate = getattr(self.training_data, "collate_fn", None) if self.batch is None else None
        is_stacked = collate is torch.utils.data.default_collate  # along the first dimension
        layers = self.network.modules()
        batch_first = all(getattr(layer, "batch_first", True) for layer in layers)
        if self.batch_dim is not None or is_stacked or batch_first:
            return False
        inputs, targets = (list(tensors(part).values()) for part in self.split(self.example))
        if all(x.ndim == 1 and not x.is_floating_point() for x in inputs):
            return True  # numbers of words may be one sentence
        n = self.count()
        sizes = [set(x.shape[:2]) for x in (*inputs, *targets)]
        alike = all(len(size) == 2 for size in sizes) and sizes == sizes[:1] * len(sizes)
        flat = bool(inputs) and flattened(inputs[0].shape, [x.shape for x in targets])
        return (alike and bool(targets)) or flat or any(x.shape[:2] == (n, n) for x in inputs)

    def pick(self, batch: Any, rows: Tensor) -> Any:
        """Return some examples of a batch, in the order of the rows."""
        self.rearranged = True
        n = self.count()
        first = next(iter(tensors(self.split(self.example)[0]).values()), None)
        if first is None:
            not_checked("needs inputs that are tensors")
        shape = first.shape[:2]
        if are_dictionaries(self.split(batch)[1]):
            chosen = [[part[row] for row in rows.tolist()] for part in batch]
            return type(batch)(type(part)(some) for part, some in zip(batch, chosen, strict=True))
        parts = batch if isinstance(batch, (tuple, list)) else (batch,)
        if isinstance(parts[0], PackedSequence) and parts is batch:
            padded, lengths = pad_packed_sequence(batch[0])
            packed = pack_padded_sequence(padded[:, rows], lengths[rows], enforce_sorted=False)
            return type(batch)((packed, *(x[rows] for x in batch[1:])))
        if any(map(is_bundle, (batch, *parts))):
            not_checked("needs a batch that can be cut into examples; this is an object")

        def some(x: Tensor) -> Tensor:
            if (dim := self.dim(x, n)) is not None:
                return x.index_select(dim, rows.to(x.device))
            if not (len(shape) == 2 and x.ndim and len(x) == shape.numel()):
                return x
            flat: Tensor = x.unflatten(0, shape)  # targets (time * examples,)
            return flat.index_select(self.batch_dim or 0, rows.to(x.device)).flatten(0, 1)

        return on_tensors(batch, some)

    def batches(self, *sizes: int, targets: Any = None) -> list[Any]:
        """Cut the examples of the batch into batches of these sizes."""
        whole = self.whole() if targets is None else self.with_targets(self.whole(), targets)
        return [self.pick(whole, rows) for rows in torch.arange(sum(sizes)).split(sizes)]

    def other_batch(self) -> Any:
        """Return the inputs with the targets of other examples, for another gradient."""
        rolled = self.pick(self.whole(), torch.arange(self.count()).roll(1))
        targets = self.split(rolled)[1]
        return rolled if targets is None else self.with_targets(self.whole(), targets)


def flattened(shape: tuple[int, ...], targets: list[Any]) -> bool:
    """Return whether targets (time * examples,) belong to inputs of two such dimensions."""
    many = len(shape) > 1 and min(shape[:2]) > 1
    return many and any(target[0] == shape[0] * shape[1] for target in targets)


def loss_in(outputs: Any) -> Tensor | None:
    """Return the loss in what a model returned, None if there is none; a dictionary's sum."""
    found = {path: x for path, x in floats(outputs).items() if not x.ndim and x.requires_grad}
    named = [x for path, x in found.items() if path in ("['loss']", ".loss")]
    if named or not found:
        return named[0] if named else None
    first, *others = found.values()
    return sum(others, first) if isinstance(outputs, Mapping) else first


PARTS = tuple(part.name for part in fields(Project) if part.init)


def attributes(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of all modules by name; what is registered is in dictionaries there."""
    for name, part in model.named_modules():
        for attribute, value in vars(part).items():
            yield f"{name}.{attribute}".lstrip("."), value


@contextmanager
def watched(project: Project) -> Iterator[None]:
    """Count the passes of a project's model, and restore everything afterwards."""

    def before(module: nn.Module, arguments: Any) -> None:
        if id(module) in project.roots:
            project.called = module
            project.passes += 1
            if project.before_forward is not None:
                project.before_forward(module, arguments)

    def after(module: nn.Module, arguments: Any, output: Any) -> None:
        if id(module) in project.roots and project.after_forward is not None:
            project.after_forward(module, output)

    project.restore()
    kind = type(project.network) if project.model is not None else nn.Module
    kind = nn.Module if issubclass(kind, torch.jit.ScriptModule) else kind  # it has no forward
    own, inherits = kind.forward, "forward" not in vars(kind)

    @wraps(own)
    def forward(module: nn.Module, *arguments: Any, **named: Any) -> Any:
        """Run the hooks, also if it is called as model.forward(x)."""
        by_call, project.called = project.called is module, None
        if by_call or id(module) not in project.roots:
            return own(module, *arguments, **named)
        before(module, arguments)
        project.called = None
        output = own(module, *arguments, **named)
        after(module, arguments, output)
        return output

    try:
        with (
            hooks.register_module_forward_pre_hook(before),
            hooks.register_module_forward_hook(after),
        ):
            kind.forward = forward
            yield
    finally:
        kind.forward = own
        if inherits:
            del kind.forward
        project.before_forward = project.after_forward = None
        project.restore(thorough=True)
