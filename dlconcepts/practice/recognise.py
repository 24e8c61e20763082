"""Whether a learner's function is one of the classic mistakes: by what it does, not how it looks.

The learner's function and the mistake run on the same drawn examples of each law that knows the
mistake. A name is given only if on every example the law says the same of both to the letter, for
the mistake's stated reason at least once, and if all that could be seen was the same to the last
bit: each result, what became of the arguments, and each tensor and model that the law ended with.
"""

import functools
import inspect
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import HypothesisException
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from dlconcepts.support.bitwise import bits, state_of

ALIKE = 25  # examples that must agree, if there are as many
FAILING = 5  # of which this many should fail; up to MOST examples are looked at for them
MOST = 300
SECONDS = 60.0  # for all the looking; who takes longer gets no name
ADDRESS = re.compile(r"0x[0-9a-f]+")
TEMPORARY = re.compile(re.escape(tempfile.gettempdir()) + r"/[^\s/'\"]+")


@dataclass(frozen=True)
class Judged:
    """A law, the name of its argument for the subject, its learner's function, its mistakes."""

    law: Any
    argument: str
    subject: Callable[..., Any]
    wrong: Mapping[Callable[..., Any], str]


@dataclass(frozen=True)
class Example:
    """What a law said of a subject on one example, nothing if it passed, and what was seen."""

    said: str
    seen: Any


class Enough(BaseException):
    """Raised to end a run of examples early."""


def recognise(laws: Sequence[Judged], watch: Callable[[], None]) -> list[tuple[str, str]]:
    """Return the name and the sentence of each mistake that a learner's function behaves as.

    The first law is the one that failed: a mistake must explain that one, and agree with the
    learner's function on each law that knows the mistake. Of several, those are named that agree
    on most laws. `watch` is called before each example.
    """
    deadline = time.monotonic() + SECONDS
    found = dict.fromkeys(mistake for law in laws for mistake in law.wrong)
    examples: dict[int, list[Example]] = {}

    def agree(mistake: Callable[..., Any], place: int) -> bool:
        law = laws[place]
        if place not in examples:
            examples[place] = examples_of(law, deadline, watch)
        reason = without_names(law.wrong.get(mistake, ""), [name_of(law.subject)])
        possible = mistake not in law.wrong or any(reason in each.said for each in examples[place])
        return possible and behaves_as(law, mistake, examples[place], deadline, watch)

    for place, law in enumerate(laws):
        tried = [mistake for mistake in found if place == 0 or mistake in law.wrong]
        for mistake in tried:
            if not agree(mistake, place):
                del found[mistake]
    if len(found) > 1:
        agreed = {each: sum(agree(each, place) for place in range(len(laws))) for each in found}
        found = dict.fromkeys(each for each in found if agreed[each] == max(agreed.values()))
    if time.monotonic() > deadline:  # what was not looked at might have been as like
        return []
    return [(name_of(mistake).replace("_", " "), sentence_of(mistake)) for mistake in found]


def name_of(subject: Any) -> str:
    """Return the name of a subject."""
    return str(getattr(subject, "__name__", type(subject).__name__))


def sentence_of(subject: Any) -> str:
    """Return the first sentence of a subject's docstring."""
    return (inspect.getdoc(subject) or "").partition("\n\n")[0].replace("\n", " ")


def examples_of(law: Judged, deadline: float, watch: Callable[[], None]) -> list[Example]:
    """Return what a law says of the learner's function, example by example."""
    examples: list[Example] = []
    soon = min(deadline, time.monotonic() + SECONDS / 12)

    def keep(example: Example) -> None:
        examples.append(example)
        failing = sum(bool(example.said) for example in examples)
        if len(examples) >= ALIKE and (failing >= FAILING or time.monotonic() > soon):
            raise Enough

    run(law, law.subject, keep, watch)
    return examples


def behaves_as(
    law: Judged,
    mistake: Callable[..., Any],
    learners: list[Example],
    deadline: float,
    watch: Callable[[], None],
) -> bool:
    """Return whether a mistake does on every example what the learner's function did."""
    agreed = 0

    def compare(example: Example) -> None:
        nonlocal agreed
        if agreed == len(learners) or time.monotonic() > deadline:
            raise Enough
        if example != learners[agreed]:
            agreed = -1
            raise Enough
        agreed += 1

    run(law, mistake, compare, watch)
    return agreed == len(learners)


def run(
    law: Judged,
    subject: Callable[..., Any],
    each: Callable[[Example], None],
    watch: Callable[[], None],
) -> None:
    """Run a law on a subject without stopping at failures; `each` is given every example."""
    test, codes = law.law, codes_of(subject)
    if not codes:
        subject, codes = as_python(subject)
    inner, before = test.hypothesis.inner_test, test._hypothesis_internal_use_settings

    @functools.wraps(inner)
    def example(*arguments: Any, **named: Any) -> None:
        watch()
        observer, said = Observer(codes, inspect.unwrap(inner).__code__, law.argument), ""
        sys.setprofile(observer)
        try:
            inner(*arguments, **named)
        except HypothesisException:
            raise  # this example does not count
        except (Exception, pytest.fail.Exception) as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            sys.setprofile(None)
        each(Example(without_names(said, {name_of(subject), name_of(law.subject)}), observer.seen))

    test.hypothesis.inner_test = example
    test._hypothesis_internal_use_settings = settings(
        max_examples=MOST,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        test(**{law.argument: subject})
    except (Enough, HypothesisException):
        pass
    finally:
        test.hypothesis.inner_test, test._hypothesis_internal_use_settings = inner, before


def without_names(said: str, subjects: Iterable[str]) -> str:
    """Return what a law said, without addresses, temporary folders and the names of subjects."""
    said = TEMPORARY.sub("...", ADDRESS.sub("0x", said))
    return re.sub(rf"\b({'|'.join(map(re.escape, subjects))})\b", "subject", said)


def as_python(subject: Callable[..., Any]) -> tuple[Callable[..., Any], set[CodeType]]:
    """Return a subject that is not written in Python as a function that is, with its code."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        return subject(*arguments, **named)

    return wrapped, {wrapped.__code__}


def codes_of(subject: Any) -> set[CodeType]:
    """Return the code of a function, or of the methods that a class does not have from torch."""
    if not isinstance(subject, type):
        code = getattr(inspect.unwrap(subject), "__code__", None)
        return {code} if code else set()
    parts = [part for part in subject.__mro__ if not part.__module__.startswith(("torch", "built"))]
    methods = [method for part in parts for method in vars(part).values()]
    return {method.__code__ for method in methods if hasattr(method, "__code__")}


class Observer:
    """A profile function that notes what a subject returns and does, and what a law ends with."""

    def __init__(self, codes: set[CodeType], law: CodeType, argument: str) -> None:
        self.codes, self.law, self.argument = codes, law, argument
        self.seen: list[Any] = []
        self.depth = 0
        self.given: list[Any] = []

    def __call__(self, frame: FrameType, event: str, result: Any) -> None:
        """Note the outermost calls of the subject, and the return of the law."""
        if frame.f_code in self.codes and event == "call":
            self.depth += 1
            if self.depth == 1:
                self.given = list(changeable(frame.f_locals.values()))
        elif frame.f_code in self.codes and event == "return":
            self.depth -= 1
            if self.depth == 0:
                # Sorted, since the learner may have another order of arguments.
                given = sorted((digest(value) for value in self.given), key=repr)
                self.seen.append((digest(result), given))
        elif frame.f_code is self.law and event == "return":
            names = sorted(frame.f_locals.keys() - {self.argument})
            at_hand = changeable(frame.f_locals[name] for name in names)
            self.seen.append([digest(value) for value in at_hand])


def changeable(arguments: Iterable[Any]) -> Iterator[Any]:
    """Yield the arguments that a subject may do something to, also out of *args and **kwargs."""
    for value in arguments:
        if isinstance(value, tuple | list):
            yield from changeable(value)
        elif isinstance(value, dict):
            yield from changeable(value.values())
        elif isinstance(value, Tensor | nn.Module | np.ndarray | torch.optim.Optimizer):
            yield value


def digest(value: Any, depth: int = 0) -> Any:
    """Return something to compare a value by, to the last bit; of what is unknown, its type."""
    if depth > 6:
        return type(value).__name__
    try:
        return digest_of(value, depth)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
        return type(value).__name__, type(error).__name__


def digest_of(value: Any, depth: int) -> Any:
    """Return the digest of a value of a kind that is known."""
    if value is None or isinstance(value, bool | int | float | complex | bytes):
        return repr(value)
    if isinstance(value, str):
        return TEMPORARY.sub("...", ADDRESS.sub("0x", value))
    if isinstance(value, Tensor):
        strides = value.stride() if value.layout == torch.strided else value.layout
        data = bits(value if value.layout == torch.strided else value.to_dense())
        return str(value.dtype), tuple(value.shape), strides, value.requires_grad, data
    if isinstance(value, np.ndarray | np.generic):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, nn.Module):
        return {name: digest(part, depth + 1) for name, part in state_of(value).items()}
    if isinstance(value, torch.optim.Optimizer):
        return digest(value.state_dict(), depth + 1)
    if isinstance(value, dict):
        return [(digest(key, depth + 1), digest(part, depth + 1)) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [digest(part, depth + 1) for part in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(digest(part, depth + 1)) for part in value)
    if isinstance(value, Image.Image):
        return value.mode, value.size, value.tobytes()
    if isinstance(value, Figure):
        value.canvas.draw()
        return bytes(value.canvas.buffer_rgba())  # type: ignore[attr-defined]
    if isinstance(value, BaseException):
        return type(value).__name__, digest(str(value), depth + 1)
    if is_dataclass(value) and not isinstance(value, type):
        # What a clock has measured is never the same twice.
        names = [part.name for part in fields(value) if part.name != "seconds"]
        return [(name, digest(getattr(value, name), depth + 1)) for name in names]
    return "callable" if callable(value) else type(value).__name__
