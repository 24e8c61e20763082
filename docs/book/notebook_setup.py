"""Run laws in a notebook as the suite does, with the code of your clone."""

import inspect
import sys
import tempfile
from pathlib import Path

# Demonstrations use np, F and nn without an import.
import numpy as np  # noqa: F401
import torch
import torch.nn.functional as F  # noqa: F401
from torch import nn  # noqa: F401

import dlconcepts
from dlconcepts.testing.laws import FAILURES, cases_of

CLONE = Path(dlconcepts.__file__).parents[1]
if not (CLONE / "conftest.py").is_file():
    raise FileNotFoundError(f"{CLONE} is not a clone of the project: clone it, `pip install -e .`")
sys.path.insert(0, str(CLONE))
import conftest  # noqa: F401 - it registers the profiles


class tmp_path_factory:  # noqa: N801 - the name of the fixture
    """Replace pytest's fixture of this name."""

    @staticmethod
    def mktemp(name):
        return Path(tempfile.mkdtemp(prefix=name))


def asked_for(function):
    """Return the names of a function's arguments, except *args and **kwargs."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def argument(name):
    """Return the value of a fixture, by name."""
    value = globals()[name]
    return value(*map(argument, asked_for(value))) if inspect.isfunction(value) else value


def first_parameters(law):
    """Return the first value of each argument that pytest parametrizes, by name."""
    marks = [mark for mark in law.pytestmark if mark.name == "parametrize"]
    return {mark.args[0]: mark.args[1][0].values[0] for mark in marks}


def run_case(law, case):
    """Run a law with one subject: the right one must pass, a mistake must fail for its reason."""
    failure = None
    with case.running(law):
        try:
            given = first_parameters(law)
            names = [name for name in asked_for(law)[1:] if name not in given]
            law(case.subject, **given, **{name: argument(name) for name in names})
        except FAILURES as error:
            failure = error
    if not case.reason and failure is None:
        print(f"{case.name}: holds on {case.examples} examples")
        return
    case.judge(failure, law)
    print(f"{case.name}: rejected: {case.reason}", *failure.__notes__, sep="\n")


def run_law(law):
    """Run a law on the right technique and on each mistake."""
    mark = next(mark for mark in law.pytestmark if mark.name == "law")
    for case in cases_of(mark.args[0], [torch.device("cpu")]):
        run_case(law, case)
