"""Laws run here as in the suite, by the machinery in the clone of the project."""

import inspect
import sys
import tempfile
from pathlib import Path

import torch

import dlconcepts
from dlconcepts.testing.laws import FAILURES, cases_of

CLONE = Path(dlconcepts.__file__).parents[1]
if not (CLONE / "conftest.py").is_file():
    raise FileNotFoundError(f"{CLONE} is no clone of the project: clone it, pip install -e it")
sys.path.insert(0, str(CLONE))
import conftest  # noqa: E402, F401 - the profiles


class tmp_path_factory:  # noqa: N801 - a law asks for it by this name
    """Makes folders, as pytest's fixture of this name does."""

    @staticmethod
    def mktemp(name):
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix=name))


def asked_for(function):
    """Return the names of a function's arguments, without *args and **kwargs."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def argument(name):
    """Return the fixture that a law asks for by name."""
    value = globals()[name]
    return value(*map(argument, asked_for(value))) if inspect.isfunction(value) else value


def run_case(law, case):
    """Run a law with one subject: what is right must pass, and a mistake fail for its reason."""
    failure = None
    with case.running(law):
        try:
            law(case.subject, *map(argument, asked_for(law)[1:]))
        except FAILURES as error:
            failure = error
    if not case.reason and failure is None:
        print(f"{case.name}: holds on {case.examples} examples")
        return
    case.judge(failure, law)
    print(f"{case.name}: rejected, since {case.reason}", *failure.__notes__, sep="\n")


def run_law(law):
    """Run a law with what is right, and with each mistake."""
    mark = next(mark for mark in law.pytestmark if mark.name == "law")
    for case in cases_of(mark.args[0], [torch.device("cpu")]):
        run_case(law, case)
