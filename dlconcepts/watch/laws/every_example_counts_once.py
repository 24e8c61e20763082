"""A mean over examples is no mean of batch means: the last batch may be smaller, or missing."""

import ast
import re
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.seen_losses import is_mean
from dlconcepts.watch.places import Place, function_at, says_validation, user_frames
from dlconcepts.watch.trace import Forward

MOST = 256  # batches of an evaluation that are followed
WEIGHTED = re.compile(r"\* ?[a-z_]|\.sum\(\)", re.I)
MEANS = re.compile(r"loss|criterion|cross_entropy|/ ?(len\(|\w+\.(size|shape))|\.mean\(|acc", re.I)


class EveryExampleCountsOnce(Law):
    id = "every-example-counts-once"

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.losses: dict[Place, list[tuple[float, int, bool]]] = {}
        self.sizes: dict[Place, list[int]] = {}  # of the batches of an evaluation, by its line
        self.names: list[str] = []  # of loaders
        self.validations: set[Place] = set()

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.judge()
        for frame in list(user_frames())[:2]:
            for scope in (frame.f_locals, frame.f_globals):
                self.names += [name for name, value in scope.items() if value is loader]
        self.names = self.names[-16:]

    def on_forward(self, forward: Forward, output: Any) -> None:
        inputs = next((x for x in forward.args if isinstance(x, Tensor) and x.ndim), None)
        site = self.trace.site(forward)
        if inputs is not None and not site.walked and len(self.sizes) < 8:
            kept = self.sizes.setdefault(forward.place, [])
            if len(kept) < MOST:
                kept.append(len(inputs))

    def on_unused(self, forward: Forward) -> None:
        if not self.trace.is_validation(forward):
            return
        loader = self.trace.loaders.get(forward.loader, lambda: None)()
        self.seen = True
        self.validations.add(forward.place)
        rest = dropped(loader)
        if rest and forward.callers and self.may_prove(id(loader)):
            self.broken(
                self.trace.built.get(id(loader), forward.place),
                "the evaluation skips the last batch: its loader has drop_last=True",
                f"{rest} of {len(loader.dataset)} examples are never evaluated",
            )

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        kept = self.losses.setdefault(place, [])
        if len(kept) < MOST and result.numel() == 1:
            n = len(named["input"]) if named["input"].ndim else 1
            kept.append((float(result.detach()), n, is_mean(named)))

    def on_step_ends(self, held: Any) -> None:
        if self.sizes or self.losses:
            self.judge()

    def on_finished(self) -> None:
        self.judge()

    def judge(self) -> None:
        losses, self.losses = self.losses, {}
        sizes, self.sizes = self.sizes, {}
        for place, found in sizes.items():
            several = 1 < len(found) < MOST
            ragged = several and len(set(found)) > 1
            named = says_validation(place, (getattr(function_at(place), "name", ""),))
            if not named and place not in self.validations:
                continue
            self.seen = self.seen or ragged
            fault = division(place, self.names) if several else None
            if fault and not ragged and "all examples" not in fault[1]:
                fault = None
            if fault is None or not self.may_prove(fault[0]):
                continue
            where, what = fault
            inside = function_at(place)
            known = [v for p, v in losses.items() if function_at(p) is inside and len(v) > 1]
            if "all examples" in what and not (known and known[0][0][2]):
                continue  # sums may be divided by the number of examples
            self.broken(where, what, proof(found, known[0] if known else [], what))


def proof(sizes: list[int], losses: list[tuple[float, int, bool]], what: str) -> str:
    total, room = sum(sizes), len(sizes) * max(sizes)
    if "room" in what:
        return f"the {len(sizes)} batches have {total} examples, and room for {room}"
    if losses and ("loss" in what or "all examples" in what):
        plain = sum(x for x, _, _ in losses) / (total if "all examples" in what else len(losses))
        mean = sum(x * (n if is_mean else 1) for x, n, is_mean in losses) / total
        return f"the mean over all {total} examples is {mean:.6g}; this gives {plain:.6g}"
    weight = max(sizes) / min(sizes)
    return (
        f"an example of the batch of {min(sizes)} counts {weight:.3g} times as much as one of the "
        f"batch of {max(sizes)}"
    )


def dropped(loader: Any) -> int:
    if loader is None or not getattr(loader, "drop_last", False):
        return 0
    size = getattr(loader, "batch_size", None)
    return len(loader.dataset) % size if size and hasattr(loader.dataset, "__len__") else 0


def division(place: Place, loaders: list[str]) -> tuple[Place, str] | None:
    """Return the line of an evaluation that divides by the number of batches, and what is wrong."""
    nodes: list[Any] = list(ast.walk(function_at(place)))
    added: dict[str, str] = {}  # what is added to a name, or collected in a list
    counts = set(loaders)
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            added[ast.unparse(node.target)] = ast.unparse(node.value)
            if ast.unparse(node.value) == "1":
                counts.add(ast.unparse(node.target))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "append" and node.args:
                added[ast.unparse(node.func.value)] = ast.unparse(node.args[0])
        elif isinstance(node, ast.Assign) and is_count(node.value, counts):
            counts.add(ast.unparse(node.targets[0]))
    by: Any
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            what, by = ast.unparse(node.left), node.right
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
            what, by = ast.unparse(node.target), node.value
        elif isinstance(node, ast.Call) and re.search(r"mean$", ast.unparse(node.func)):
            what, by = ast.unparse(node.args[0]) if node.args else "", ast.Name("batches")
            counts.add("batches")
        else:
            continue
        what = re.sub(r"^sum\((\w+)\)$|^[\d.]+ \* ", r"\1", what)
        value = added.get(what, "")
        is_product = isinstance(by, ast.BinOp) and isinstance(by.op, ast.Mult)
        if value and is_product and any(is_count(part, counts) for part in (by.left, by.right)):
            return Place(place.file, node.lineno), "a sum is divided by the room in the batches"
        by_all = re.fullmatch(r"len\(.+\.dataset\)", ast.unparse(by)) and "loss" in value
        if by_all and not WEIGHTED.search(value) and "reduction" not in value:
            text = "means of batches are added up and divided by the number of all examples"
            return Place(place.file, node.lineno), text
        weighted = WEIGHTED.search(value.replace(").sum().item() / ", ""))
        is_mean = MEANS.search(value) and not weighted
        if is_mean and is_count(by, {*counts, what}):
            kind = "losses" if re.search("loss|criterion|entropy", value, re.I) else "figures"
            return (
                Place(place.file, node.lineno),
                f"{kind} of batches are divided by the number of batches, though one is smaller",
            )
    return None


def is_count(node: ast.AST, counts: set[str]) -> bool:
    """Return whether an expression is the number of batches."""
    text = ast.unparse(node)
    inner = re.fullmatch(r"len\((.+)\)", text)
    return text in counts or bool(
        inner and (inner[1] in counts or re.search(r"(loader|_dl|batches)$", inner[1]))
    )
