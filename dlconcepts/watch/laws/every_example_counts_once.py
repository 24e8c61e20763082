"""A mean over examples is no mean of batch means: the last batch may be smaller."""

import ast
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.places import Place, function_at, says_validation, user_frames
from dlconcepts.watch.trace import Forward

PASSES = 64  # batches of an evaluation whose losses are kept


class EveryExampleCountsOnce(Law):
    id = "every-example-counts-once"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.losses: dict[Place, list[tuple[float, int, str]]] = {}
        self.forwards: list[Forward] = []
        self.lines: dict[Place, int] = {}
        self.sizes: dict[int, list[int]] = {}
        self.names: dict[Place, list[str]] = {}

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.sizes[id(loader)] = []
        self.judge()
        self.losses.clear()
        names = []
        frame = next(user_frames(), None)
        for scope in (frame.f_locals, frame.f_globals) if frame else ():
            names += [name for name, value in scope.items() if value is loader]
        self.names[place] = names
        self.lines[place] = id(loader)

    def on_batch(self, loader: Any, batch: Any) -> None:
        sizes = self.sizes.get(id(loader))
        if sizes is not None and len(sizes) < 100_000:
            sizes.append(count(batch))

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        kept = self.losses.setdefault(place, [])
        is_mean = named.get("reduction", "mean") == "mean"
        if len(kept) < PASSES and result.numel() == 1:
            n = len(named["input"]) if named["input"].ndim else 1
            kept.append((float(result.detach()), n, "mean" if is_mean else "sum"))

    def on_step_ends(self, held: Any) -> None:
        if self.losses:
            self.judge()
            self.losses.clear()

    def on_finished(self) -> None:
        self.judge()

    def judge(self) -> None:
        for place, found in self.losses.items():
            sizes = [n for _, n, _ in found]
            if (
                len(found) < 2
                or len(found) >= PASSES
                or not says_validation(place, (name_at(place),))
            ):
                continue
            self.seen = True
            value = mean_of_batches(place, [n for names in self.names.values() for n in names])
            kind = found[0][2]
            if value is None or not self.may_prove(place):
                continue
            total = sum(sizes)
            batches = sum(x for x, _, _ in found) / len(found)
            weighted = sum(x * (n if kind == "mean" else 1) for x, n, _ in found) / total
            if abs(batches - weighted) > 1e-6 * max(abs(batches), abs(weighted)):
                what = "sums" if kind == "sum" else "means"
                self.broken(
                    value,
                    f"{what} of {len(found)} batches are divided by the number of batches, though "
                    f"the last has {sizes[-1]} examples and the first {sizes[0]}",
                    f"the mean over all {total} examples is {weighted:.6g}; this gives "
                    f"{batches:.6g}",
                )


def count(batch: Any) -> int:
    first = batch
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if isinstance(first, dict) and first:
        first = next(iter(first.values()))
    return len(first) if isinstance(first, Tensor) and first.ndim else 0


def name_at(place: Place) -> str:
    return getattr(function_at(place), "name", "")


def mean_of_batches(place: Place, loaders: list[str]) -> Place | None:
    """Return the line that divides by the number of batches, in the function of a loss."""
    function = function_at(place)
    counters = {
        node.target.id
        for node in ast.walk(function)
        if isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
        and node.value.value == 1
    }
    sized = [
        node.targets[0].id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and is_length(node.value, loaders)
    ]
    collected = {
        node.func.value.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.func.value, ast.Name)
        and "loss" in ast.unparse(node).lower()
    }
    for node in ast.walk(function):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            by, what = node.right, ast.unparse(node.left).lower()
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
            by, what = node.value, ast.unparse(node.target).lower()
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("np.mean", "mean", "fmean"):
            if node.args and ast.unparse(node.args[0]) in collected:
                return Place(place.file, node.lineno)
            continue
        else:
            continue
        text = ast.unparse(by)
        if node.lineno < place.line or not ("loss" in what or "total" in what or "sum" in what):
            continue
        if is_length(by, [*loaders, *collected]) or text in counters or text in sized:
            return Place(place.file, node.lineno)
    return None


def is_length(node: ast.AST, names: list[str]) -> bool:
    """Return whether an expression is the length of a loader."""
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "len" and node.args):
        return False
    text = ast.unparse(node.args[0])
    return text in names or text.endswith(("loader", "_dl", "batches"))
