"""Who may import whom in `dlconcepts`: no circle, and no arrow upwards."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "dlconcepts"
LESSONS = (
    *("tensors", "loading", "networks", "autograd", "training", "validation"),
    *("checkpoints", "images", "transfer", "weights", "devices"),
)
BELOW_THE_LESSONS = {"support", ""}
# Each room, and the rooms below it, whose modules it may import.
BELOW = {
    "support": {""},
    **{lesson: BELOW_THE_LESSONS | set(LESSONS) for lesson in LESSONS},
    "strategies": {"support"},
    "testing": {"support"},
    "checks": {"support"},
    "parity": BELOW_THE_LESSONS | set(LESSONS),
    "watch": {"checks"},
    "practice": {"support", "testing"},
    "cli": BELOW_THE_LESSONS | {*LESSONS, "testing", "checks", "watch", "parity", "practice"},
    "__main__": {"cli"},
    "": set(),
}


def room_of(path: Path) -> str:
    """Return the name of the room that a module is in."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


def imported(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "dlconcepts":
            names |= {f"dlconcepts.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return names


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_its_own_room_and_those_below(path: Path) -> None:
    """Lessons know nothing of the tools, tools nothing of the commands, and nothing the tests."""
    room = room_of(path)
    names = imported(path)
    rooms = {name.split(".")[1] for name in names if name.startswith("dlconcepts.")}

    assert rooms - {room} <= BELOW[room], f"{room} imports from above"
    assert not any(name.partition(".")[0] == "tests" for name in names), "nothing imports tests/"


def test_every_room_has_its_place() -> None:
    """A new room must say what it stands on."""
    assert {room_of(path) for path in MODULES} == set(BELOW)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """The modules can be put in an order in which each imports only earlier ones."""
    graph = {module_name(path): imported(path) for path in MODULES}
    ahead, done = dict(graph), set[str]()
    while ahead:
        free = {name for name, needs in ahead.items() if not (needs & graph.keys()) - done - {name}}
        assert free, f"these import each other: {sorted(ahead)}"
        done |= free
        ahead = {name: needs for name, needs in ahead.items() if name not in free}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("room", [*LESSONS, "checks"])
def test_lessons_and_checks_need_no_tools(room: str) -> None:
    """Lessons use torch, torchvision, numpy and PIL; the checks torch, and pytest."""
    allowed = {"torch", "pytest"} if room == "checks" else {"torch", "torchvision", "numpy", "PIL"}
    files = [path for path in MODULES if room_of(path) == room]
    found = {name.partition(".")[0] for path in files for name in imported(path)}

    assert found & third_party() <= allowed


def third_party() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return {*re.findall(r'^    "([a-z]+)>=', text, flags=re.MULTILINE), "PIL"}


def test_only_the_bridge_touches_what_hypothesis_does_not_document() -> None:
    """A rename in Hypothesis is met in one place."""
    undocumented = re.compile(
        r"hypothesis\.internal|_hypothesis_internal|inner_test|hypothesis_statistics"
    )
    code = [*MODULES, *(ROOT / "benchmarks").rglob("*.py"), ROOT / "conftest.py"]
    found = {path.name for path in code if undocumented.search(path.read_text(encoding="utf-8"))}

    assert found == {"hypothesis_bridge.py"}


def test_each_dependency_has_its_reason() -> None:
    """Each line of the dependencies in pyproject.toml ends with a comment that says what for."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(r"^\w+ = \[\n((?: +\".*\n)+)\]", text, flags=re.MULTILINE)
    lines = [line for block in lists for line in block.splitlines() if ">=" in line]

    assert lines
    assert not [line for line in lines if "  # " not in line]
