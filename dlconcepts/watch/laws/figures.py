"""A mean over examples is no mean of batch means: the last batch may be smaller, or missing."""

import ast
import re
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.steps import is_mean
from dlconcepts.watch.places import (
    Place,
    function_at,
    function_name,
    loops_at,
    says_validation,
    user_frames,
)
from dlconcepts.watch.trace import Forward

MOST = 256  # batches of an evaluation that are followed
WEIGHTED = re.compile(r"\* ?[a-z_]|\.sum\(\)", re.I)
MEANS = re.compile(r"loss|criterion|cross_entropy|/ ?(len\(|\w+\.(size|shape))|\.mean\(|acc", re.I)
ROOM = "a sum is divided by the room in the batches"
ALL = "means of batches are added up and divided by the number of all examples"
LAST = "each batch overwrites the loss or figure of the one before"
COUNT = "{} of batches are divided by the number of batches, though one is smaller"


class EveryExampleCountsOnce(Law):
    """A mean over examples is no mean of batch means: the last batch may be smaller, or missing."""

    losses: dict[Place, list[tuple[float, int, bool]]]
    sizes: dict[Place, list[int]]  # of the batches of an evaluation, by its line
    names: list[str]  # of loaders
    validations: set[Place]

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.on_finished()
        for frame in list(user_frames())[:2]:
            for scope in (frame.f_locals, frame.f_globals):
                self.names += [name for name, value in scope.items() if value is loader]
        self.names = self.names[-16:]

    def on_forward(self, forward: Forward, output: Any) -> None:
        inputs = forward.inputs
        if inputs is not None and not self.trace.site(forward).walked and len(self.sizes) < 8:
            kept = self.sizes.setdefault(forward.place, [])
            kept += [len(inputs)][: MOST - len(kept)]

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        self.validations.add(forward.place)
        loader = self.trace.loader_of(forward)
        size, data = getattr(loader, "batch_size", None), loader and loader.dataset
        if not getattr(loader, "drop_last", False) or not size or not hasattr(data, "__len__"):
            return
        rest = len(data) % size
        if rest and forward.callers and self.may_prove(id(loader)):
            place = self.trace.built.get(id(loader), forward.place)
            text = "the evaluation skips the last batch: its loader has drop_last=True"
            self.broken(place, text, f"{rest} of {len(data)} examples are never evaluated")

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        kept = self.losses.setdefault(place, [])
        if len(kept) < MOST and result.numel() == 1:
            n = len(named["input"]) if named["input"].ndim else 1
            kept.append((float(result.detach()), n, is_mean(named)))

    def on_step_ends(self, held: Any) -> None:
        if self.sizes or self.losses:
            self.on_finished()

    def on_finished(self) -> None:
        losses, self.losses = self.losses, {}
        sizes, self.sizes = self.sizes, {}
        for place, found in sizes.items():
            if place not in self.validations and not says_validation(place, function_name(place)):
                continue
            several = 1 < len(found) < MOST
            ragged = several and len(set(found)) > 1
            self.seen = self.seen or ragged
            where, what = division(place, self.names) if several else (place, "")
            inside = function_at(place)
            lines = [v for p, v in losses.items() if function_at(p) is inside and len(v) > 1]
            known = lines[0] if lines else []
            # Sums may be divided by the number of examples.
            is_mean = bool(known and known[0][2])
            is_fault = {ALL: is_mean, LAST: several}.get(what, ragged)
            if what and is_fault and self.may_prove(where):
                self.broken(where, what, proof(found, known, what))


def proof(sizes: list[int], losses: list[tuple[float, int, bool]], what: str) -> str:
    total, least, most = sum(sizes), min(sizes), max(sizes)
    if what == ROOM:
        return f"the {len(sizes)} batches have {total} examples, and room for {len(sizes) * most}"
    if what == LAST and not losses:
        return f"the last of {len(sizes)} batches has {sizes[-1]} of the {total} examples"
    if losses and (what in (ALL, LAST) or "loss" in what):
        plain = sum(x for x, _, _ in losses) / (total if what == ALL else len(losses))
        plain = losses[-1][0] if what == LAST else plain
        mean = sum(x * (n if is_mean else 1) for x, n, is_mean in losses) / total
        return f"the mean over all {total} examples is {mean:.6g}; this gives {plain:.6g}"
    return f"an example of the batch of {least} counts as {most / least:.3g} of the batch of {most}"


def division(place: Place, loaders: list[str]) -> tuple[Place, str]:
    """Return the line of an evaluation that divides by the number of batches, and what is wrong."""
    nodes: list[Any] = list(ast.walk(function_at(place)))
    added: dict[str, str] = {}  # what is added to a name, or collected in a list
    counts = set(loaders)
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            added[ast.unparse(node.target)] = value = ast.unparse(node.value)
            counts |= {ast.unparse(node.target)} if value == "1" else set()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "append" and node.args:
                added[ast.unparse(node.func.value)] = ast.unparse(node.args[0])
        elif isinstance(node, ast.Assign) and is_count(node.value, counts):
            counts.add(ast.unparse(node.targets[0]))
    if line := overwritten(place, nodes):
        return Place(place.file, line), LAST
    for node in nodes:
        by: Any = None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            what, by = node.left, node.right
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div):
            what, by = node.target, node.value
        elif isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("mean"):
            what = by = node.args[0]
        if by is None:
            continue
        name = re.sub(r"^sum\((\w+)\)$|^[\d.]+ \* ", r"\1", ast.unparse(what))
        value, here = added.get(name, ""), Place(place.file, node.lineno)
        is_product = isinstance(by, ast.BinOp) and isinstance(by.op, ast.Mult)
        if value and is_product and any(is_count(part, counts) for part in (by.left, by.right)):
            return here, ROOM
        by_all = re.fullmatch(r"len\(.+\.dataset\)", ast.unparse(by)) and "loss" in value
        if by_all and not WEIGHTED.search(value) and "reduction" not in value:
            return here, ALL
        weighted = WEIGHTED.search(value.replace(").sum().item() / ", ""))
        if MEANS.search(value) and not weighted and is_count(by, {*counts, name}):
            kind = "losses" if re.search("loss|criterion|entropy", value, re.I) else "figures"
            return here, COUNT.format(kind)
    return place, ""


def overwritten(place: Place, nodes: list[Any]) -> int:
    """Return the line of a loop that sets a figure which is read only after the loop, or 0."""
    for loop in loops_at(place)[-1:]:
        reads = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        after = {n.id for n in reads if n.lineno > loop.end_lineno}
        after -= {n.id for n in reads if loop.lineno <= n.lineno <= loop.end_lineno}
        for node in [n for n in ast.walk(loop) if isinstance(n, ast.Assign)]:
            names = {ast.unparse(target) for target in node.targets}
            if names & after and MEANS.search(ast.unparse(node.value)):
                return node.lineno
    return 0


def is_count(node: ast.AST, counts: set[str]) -> bool:
    """Return whether an expression is the number of batches."""
    text = ast.unparse(node)
    inner = re.fullmatch(r"len\((.+)\)", text)
    is_length = inner and (inner[1] in counts or re.search(r"(loader|_dl|batches)$", inner[1]))
    return text in counts or bool(is_length)
