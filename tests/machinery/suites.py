"""A small project in a folder of its own, to try the plugin of the laws on."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parents[2]
CLAIM = '''"""Doubling adds a number to itself.

>>> x = 3
>>> y = x + x
>>> y
6

Notes: Doubling adds.
Verdict: holds
"""
'''
OPINION = (
    CLAIM.replace("Doubling adds a number to itself", "Doubling is beautiful")
    .replace("Doubling adds.", "Doubling is <b>beautiful</b>.")
    .replace("holds", "opinion")
)
HEAD = '''
import pytest
from hypothesis import assume, given, strategies as st
import torch

from dlconcepts.testing.laws import law

def double(x): return x + x

def squares(x):
    """Multiply it by itself."""
    return x * x

def crashes(x):
    """Raise."""
    raise RuntimeError("broken")

def also_doubles(x):
    """Double, too."""
    return 2 * x

'''
LAW = '''
@given(x=st.integers(0, 1000))
def test_doubling(double, x):
    """Doubling adds a number to itself."""
    assert double(x) == x + x, "twice the number"
'''


class Suite:
    """A project with conftest.py of this one, and the lesson tensors with one claim, doubles."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.tests = pytester.path / "tests"
        for name in ("conftest.py", "pyproject.toml"):
            self.write(name, (ROOT / name).read_text(encoding="utf-8"))
        self.write("tests/__init__.py", "")
        self.write("tests/tensors/__init__.py", '"""Tensors."""\n\nCLAIMS = ["doubles"]\n')

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.pytester.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, body: str, *options: str, head: str = CLAIM) -> pytest.RunResult:
        """Write the file of the claim and run the suite in the profile ci."""
        self.write("tests/tensors/test_doubles.py", head + HEAD + body)
        return self.run_files(*options)

    def run_files(self, *options: str) -> pytest.RunResult:
        """Run the suite as it is, in the profile ci."""
        profile = settings.get_current_profile_name()
        arguments = ["--hypothesis-profile=ci", "--junitxml=results.xml", *options]
        # This suite has packages of the same names as the one that is running.
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]  # pytester restores them
        try:
            return self.pytester.runpytest_inprocess(*arguments)
        finally:
            settings.load_profile(profile)

    def records(self) -> list[dict[str, str]]:
        """Return the properties that each item of a law recorded."""
        cases = ET.parse(self.pytester.path / "results.xml").iter("testcase")
        found = [{p.attrib["name"]: p.attrib["value"] for p in c.iter("property")} for c in cases]
        return [record for record in found if record.get("kind") in ("right", "wrong")]
