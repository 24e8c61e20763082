"""A mean over examples is no mean of batch means: the last batch may be smaller, or missing."""

import ast
import math
import re
from typing import Any

from torch import Tensor

from dlconcepts.watch.law import Law
from dlconcepts.watch.laws.steps import is_mean
from dlconcepts.watch.places import Place, function_at, function_name, loop_at, says_validation
from dlconcepts.watch.trace import Forward

MOST = 256  # batches of an evaluation that are followed
SHARE = re.compile(r"/ ?(len\(|\w+\.(size|shape))|\.mean\(")  # of a batch
FIGURE = re.compile("loss|criterion|entropy|acc", re.I)
WEIGHTED = re.compile(r"\* ?[a-z_]", re.I)
STATEMENTS = (ast.Assign, ast.AugAssign, ast.Return, ast.Call)
# A name or a sum of a list, divided by a number or a product; or the mean of a list.
NUMBER = r"[\w.]+(?:\([\w.]+\))?"
DIVISION = re.compile(rf"(?:sum\()?([\w.]+)\)? /=? \(?({NUMBER}(?: \* {NUMBER})?)|mean\((\w+)\)")
ROOM = "a sum is divided by the room in the batches"
ALL = "means of batches are added up and divided by the number of all examples"
LAST = "each batch overwrites the loss or figure of the one before"
COUNT = "means of batches are divided by the number of batches, though one is smaller"


class EveryExampleCountsOnce(Law):
    """A mean over examples is no mean of batch means: the last batch may be smaller, or missing."""

    losses: dict[Place, list[tuple[float, int, bool]]]
    sizes: dict[Place, list[int]]  # of the batches of an evaluation, by its line
    validations: set[Place]

    def on_epoch(self, loader: Any, place: Place) -> None:
        self.on_finished()

    def on_step_ends(self, held: Any) -> None:
        self.on_finished()

    def on_forward(self, forward: Forward, output: Any) -> None:
        inputs, kept = forward.inputs, self.sizes.setdefault(forward.place, [])
        is_other = forward.site not in self.trace.training_sites
        if inputs is not None and is_other and len(kept) < MOST:
            kept.append(len(inputs))

    def on_loss(self, name: str, named: Any, result: Tensor, place: Place) -> None:
        if result.numel() == 1 and named["input"].ndim and len(self.losses.get(place, ())) < MOST:
            loss = float(result.detach()), len(named["input"]), is_mean(named)
            self.losses.setdefault(place, []).append(loss)

    def on_evaluated(self, forward: Forward) -> None:
        self.seen = True
        self.validations.add(forward.place)
        loader = forward.source
        size: Any = getattr(loader, "batch_size", None)
        data: Any = getattr(loader, "dataset", None)
        if getattr(loader, "drop_last", False) and size and hasattr(data, "__len__"):
            rest = len(data) % size
            if rest and forward.loader and forward.callers:
                text = "the evaluation skips the last batch: its loader has drop_last=True"
                proof = f"{rest} of {len(data)} examples are never evaluated"
                self.broken(forward.loader.place, text, proof)

    def on_finished(self) -> None:
        losses, self.losses = self.losses, {}
        sizes, self.sizes = self.sizes, {}
        for place, found in sizes.items():
            is_known = place in self.validations or says_validation(place, function_name(place))
            if is_known and 1 < len(found) < MOST:
                where, what, figure = division(place)
                inside = [v for p, v in losses.items() if function_at(p) is function_at(place)]
                known = inside[0] if inside and re.search("loss|criterion|entropy", figure) else []
                self.judge(where, what, found, known)

    def judge(self, place: Place, what: str, sizes: list[int], losses: Any) -> None:
        total, room = sum(sizes), len(sizes) * max(sizes)
        is_fault = what == LAST or (what in (ROOM, COUNT) and room > total)
        proof = f"the {len(sizes)} batches have {min(sizes)} to {max(sizes)} of {total} examples"
        if what and losses:
            plain, means = sum(x for x, _, _ in losses), [x * n for x, n, mean in losses if mean]
            mean = (sum(means) if means else plain) / total
            values = {ROOM: mean * total / room, ALL: plain / total, LAST: losses[-1][0]}
            given = values.get(what, plain / len(losses))
            is_fault = not math.isclose(given, mean, rel_tol=1e-6)
            proof = f"the mean over all {total} examples is {mean:.6g}; this gives {given:.6g}"
        if is_fault:
            self.broken(place, what, proof)


def division(place: Place) -> tuple[Place, str, str]:
    """Return the line of an evaluation that divides wrongly, what is wrong, and what it adds up."""
    function, loop = function_at(place), loop_at(place)
    names = re.findall(r"[\w.]+", ast.unparse(loop.iter)) if loop else []
    counts = {f"len({name})" for name in names}  # expressions of the number of batches
    added: dict[str, str] = {}  # what is added to a name, or collected in a list
    statements: list[Any] = [n for n in ast.walk(function) if isinstance(n, STATEMENTS)]
    texts = [(node.lineno, ast.unparse(node)) for node in statements]
    for _, text in texts:
        if adds := re.match(r"([\w.]+)(?: \+= |\.append\()(.+)", text):
            added[adds[1]] = adds[2]
            counts.add(adds[1] if adds[2] == "1" else f"len({adds[1]})")
        name, _, value = text.partition(" = ")
        counts |= {name} if value in counts else set()
    for line, text in texts:
        name, _, value = text.partition(" = ")
        if loop and loop.lineno < line <= loop.end_lineno and is_figure(value):
            word = re.compile(rf"\b{re.escape(name)}\b")
            uses = [n for n, other in texts if word.search(other.partition(" = ")[2] or other)]
            if uses and min(uses) > loop.end_lineno:
                return Place(place.file, line), LAST, value
        for what, by, whole in DIVISION.findall(text):
            figure, by = added.get(what or whole, ""), by or f"len({whole})"
            is_room = " * " in by and any(part in counts for part in by.split(" * "))
            is_all = by.endswith(".dataset)") and "loss" in figure and "reduction" not in figure
            kind = COUNT if by in counts else ROOM if is_room else ALL if is_all else ""
            if figure and kind and (is_room or is_figure(figure)):
                return Place(place.file, line), kind, figure
    return place, "", ""


def is_figure(text: str) -> bool:
    """Return whether an expression is a mean over a batch."""
    is_share = bool(SHARE.search(text)) or (bool(FIGURE.search(text)) and ".sum()" not in text)
    return is_share and not WEIGHTED.search(text)
