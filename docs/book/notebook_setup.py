"""Laws run here as in the suite, by the machinery of conftest.py in the clone of the project."""

import inspect
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch

import dlconcepts

CLONE = Path(dlconcepts.__file__).parents[1]
if not (CLONE / "conftest.py").is_file():
    raise FileNotFoundError(f"{CLONE} is no clone of the project: clone it, pip install -e it")
sys.path.insert(0, str(CLONE))
import conftest  # noqa: E402 - found only now

__file__ = str(CLONE / "tests" / "CHAPTER")
warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)  # the mark itself does nothing


class tmp_path_factory:  # noqa: N801 - a law asks for it by this name
    """Makes folders, as pytest's fixture of this name does."""

    @staticmethod
    def mktemp(name):
        """Return a new folder."""
        return Path(tempfile.mkdtemp(prefix=name))


def asked_for(function):
    """Return the names of what a function takes, without those that collect the rest."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def argument(name):
    """Return what a law asks for by name, beside its subject and what is drawn."""
    value = globals()[name]
    return value(*map(argument, asked_for(value))) if inspect.isfunction(value) else value


def run_case(law, case):
    """Run a law with one subject: what is right must pass, and a mistake fail for its reason."""
    failure, asked = None, case.settings()
    with conftest.running(law, case, asked):
        try:
            law(case.subject, *map(argument, asked_for(law)[1:]))
        except conftest.FAILURES as error:
            failure = error
    if case.reason is None and failure is None:
        print(f"{case.name}: holds on {case.examples} examples")
        return
    case.judge(failure, asked.max_examples, "")
    print(f"{case.name}: rejected, since {case.reason}", *failure.__notes__, sep="\n")


def run_law(law):
    """Run a law with what is right, and with each mistake."""
    mark = next(mark for mark in law.pytestmark if mark.name == "claim")
    claim = conftest.Claim(*mark.args, **mark.kwargs)
    for subject, reason in {claim.right: None, **claim.wrong}.items():
        run_case(law, conftest.Case(claim, subject, torch.device("cpu"), reason))
