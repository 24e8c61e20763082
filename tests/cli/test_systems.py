"""The commands on other systems, and where the working folder hides a module."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import dlconcepts

PACKAGE = Path(dlconcepts.__file__).parent
# What only some systems have, and a text that the function around it needs: its counterpart.
ELSEWHERE = {
    "fork": "hasattr",
    "getpgid": "hasattr",
    "killpg": "hasattr",
    "mkfifo": "hasattr",
    "sched_getaffinity": "hasattr",
    "setsid": "hasattr",
    "SIGALRM": "hasattr",
    "SIGHUP": "hasattr",
    "SIGKILL": "hasattr",
    "setitimer": "hasattr",
    "preexec_fn": "os.name",
    "pass_fds": "os.name",
    "CDLL": "os.name",
    "fcntl": "except ImportError",
    "grp": "except ImportError",
    "pwd": "except ImportError",
    "resource": "except ImportError",
    "termios": "except ImportError",
    "/dev/": "except OSError",
    "/proc/": "except OSError",
    "/sys/": "except OSError",
}
NEED_NONE = {"start_new_session"}  # Windows ignores it


def names_in(node: ast.AST) -> Iterator[str]:
    """Yield what one node of code uses: attributes, arguments, imports, and starts of texts."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.keyword):
        yield node.arg or ""
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.name for alias in node.names)
        yield getattr(node, "module", "") or ""
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from (name for name in ELSEWHERE if "/" in name and node.value.startswith(name))


def without_counterpart(source: str) -> list[str]:
    """Return what of some code only some systems have, where nothing is there for the others."""
    tree, found = ast.parse(source), []
    parts = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)] or [tree]
    for part in (*parts, *tree.body):
        text = ast.unparse(part)
        nested = isinstance(part, ast.ClassDef)  # its methods are parts of their own
        for node in () if nested else ast.walk(part):
            found += [n for n in names_in(node) if n in ELSEWHERE and ELSEWHERE[n] not in text]
    return sorted(set(found))


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_needs_linux(path: Path) -> None:
    """What macOS or Windows lack has a counterpart in the same function."""
    assert without_counterpart(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", ["fcntl"]),
        ("def f():\n    os.killpg(1, 2)", ["killpg"]),
        ("def f():\n    if hasattr(os, 'killpg'):\n        os.killpg(1, 2)", []),
        ("def f():\n    try:\n        import fcntl\n    except ImportError:\n        pass", []),
        ("class A:\n    def f(self):\n        signal.signal(signal.SIGALRM, g)", ["SIGALRM"]),
        ("def f():\n    return open('/proc/self/stat')", ["/proc/"]),
        ("subprocess.Popen(x, preexec_fn=f)", ["preexec_fn"]),
        ("from resource import getrusage", ["resource"]),
    ],
)
def test_what_needs_linux_is_found(source: str, found: list[str]) -> None:
    """The search finds calls, imports, arguments and paths."""
    assert without_counterpart(source) == found


def test_the_ci_recipe_runs_the_commands_of_the_readme_on_each_system() -> None:
    """Linux, macOS and Windows run what the README says, and no step may fail."""
    yaml = pytest.importorskip("yaml", reason="pyyaml comes with the extra test")
    root = Path(__file__).parents[2]
    job = yaml.safe_load((root / ".github/workflows/tests.yml").read_text())["jobs"]["tests"]
    lines = [
        line.split(" && ")
        for line in (root / "README.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("python3 -m venv")
    ]
    # The second of the README's lines installs what the first installs, and more.
    commands = [lines[1][2], *(line[-1] for line in lines)]

    assert [step["run"] for step in job["steps"] if "run" in step] == [
        command.replace("pip", "python -m pip", command.startswith("pip")) for command in commands
    ]
    systems = {"ubuntu-latest", "macos-latest", "windows-latest"}
    assert set(job["strategy"]["matrix"]["os"]) == systems
    assert job["runs-on"] == "${{ matrix.os }}"
    assert "continue-on-error" not in str(job)


def program(
    *start: str, hidden: Sequence[str], line: str = "parity --device gpu", first: str = ""
) -> tuple[int, str]:
    """Run a command in a folder as a learner has it, and return its status and its errors."""
    for name in hidden:
        Path(f"{name}.py").write_text("def learn(): return 1\n")
    places = filter(None, (first, str(PACKAGE.parent)))
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    finished = subprocess.run(
        [sys.executable, *start, *line.split()], capture_output=True, text=True, env=variables
    )
    return finished.returncode, finished.stderr


SAFE = pytest.param(
    ("-P", "-m", "dlconcepts"),
    marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="-P is new in Python 3.11"),
)
SCRIPT = (
    "-c",
    "import sys; sys.path.remove(''); from dlconcepts.cli import main; sys.exit(main())",
)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("start", [("-m", "dlconcepts"), SAFE, SCRIPT])
def test_a_learners_files_hide_no_module(start: tuple[str, ...]) -> None:
    """`python -m`, `python -P -m` and the script `dlconcepts` import Python's own modules."""
    status, error = program(*start, hidden=["random", "torch", "json", "types", "numpy"])

    assert (status, error[:41]) == (2, "dlconcepts parity: unknown device 'gpu': ")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["random", "torch", "numpy", "argparse"])
def test_a_file_that_hides_a_module_is_named(name: str) -> None:
    """Where PYTHONPATH puts the working folder first."""
    status, error = program(*SCRIPT, hidden=[name], first=str(Path.cwd()))

    assert (status, error.count("\n")) == (2, 1), error
    assert f"{Path.cwd() / name}.py hides the module {name}, which dlconcepts needs" in error


@pytest.mark.skipif(os.name == "nt", reason="bash is not on Windows")
def test_bash_completes_commands_and_options() -> None:
    """The printed script completes what has been typed."""
    shtab = pytest.importorskip("shtab", reason="shtab is optional")
    assert shtab
    script = """
    eval "$(python -m dlconcepts --print-completion bash)"
    complete() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        $(builtin complete -p dlconcepts | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
        echo "${COMPREPLY[@]}"
    }
    complete dlconcepts tr
    complete dlconcepts train --ep
    """
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=variables, cwd=PACKAGE.parent
    )

    assert done.stdout.split() == ["train", "transfer", "--epochs"], done.stderr
