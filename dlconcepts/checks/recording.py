"""What a project calls: its loss, with which arguments, and the functions of torch."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch.overrides import TorchFunctionMode

from dlconcepts.checks.batches import NotCheckedError, not_checked
from dlconcepts.checks.project import Project
from dlconcepts.checks.trees import floats


class Calls(TorchFunctionMode):
    """Passes the name, arguments and result of each call of a torch function to `look`."""

    def __init__(self, look: Callable[[str, list[Any], Any], object]) -> None:
        super().__init__()
        self.look = look

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(getattr(func, "__name__", "")).strip("_")
        self.look(name, [*args, *(kwargs or {}).values()], result)
        return result


class Recording:
    """A loss function that remembers its arguments, and has the attributes of the project's."""

    def __init__(self, loss_fn: Callable[..., Any]) -> None:
        self.loss_fn = loss_fn
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        if not named:
            self.calls.append(arguments)
        return self.loss_fn(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loss_fn, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # for loops that ask whether the loss is an NLLLoss
        return type(self.loss_fn)


def scores(project: Project) -> tuple[Any, ...]:
    """Return what training passes to the loss: as a rule outputs with their graph, and targets."""
    if project.loss_fn is None:
        not_checked("needs loss_fn")
    if project.trainer != "a plain step":
        model, optimizer = project.fresh_pair(training=True)
        own, project.loss_fn = project.loss_fn, (recording := Recording(project.loss_fn))
        try:
            with suppress(NotCheckedError):
                project.train(model, optimizer, project.repeated(1))
        finally:
            project.loss_fn = own
        if recording.calls and floats(recording.calls[0][0]):
            return recording.calls[0]
    if not project.has("targets"):
        return ()
    batch = project.whole()
    return project.feed(project.fresh(training=True), batch), project.split(batch)[1]


def loss_arguments(project: Project) -> tuple[Any, ...]:
    """Return the arguments of the first call of the loss in training, as the project makes it."""
    if project.scored is None:  # one training step serves all checks of the loss
        project.scored = scores(project)
    return tuple(project.scored)
