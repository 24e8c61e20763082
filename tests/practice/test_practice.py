"""`python -m dlconcepts practice`: learners write the techniques, and the laws judge them.

One folder with a fault of each kind is checked once; most tests look at what was told of it.
"""

import ast
import doctest
import importlib.util
import inspect
import json
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from dlconcepts.__main__ import main
from dlconcepts.practice import check as checking
from dlconcepts.practice import command, recognise
from dlconcepts.practice.sheets import fingerprint, sheet, solved
from dlconcepts.practice.techniques import TESTS, survey
from dlconcepts.testing.results import LESSONS

TECHNIQUES, OTHER_LAWS = survey(TESTS)
BY_NAME = {technique.name: technique for technique in TECHNIQUES}
ROOT = Path(__file__).parents[2]
BODIES = {
    "centre": "while True:\n        tensor = tensor",
    "from_numpy": 'print("[bold]noise[/bold]")\n    return torch.tensor(array)',
    "to_numpy": "nothing = {}\n    return nothing[tensor.dtype]",
    "train_step": """loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()""",
    "descent_direction": "return 0.9 * gradient(function, x)",
    "accuracy": "import os\n    os._exit(0)",
    "confusion_matrix": "return helper(predictions, labels, classes)",
}


def lesson_file(lesson):
    """Return the practice file of a lesson."""
    own = [technique for technique in TECHNIQUES if technique.lesson == lesson]
    return sheet(LESSONS.index(lesson) + 1, lesson, own)


def with_bodies(text, **bodies):
    """Return a practice file in which some functions have a body."""
    for name, body in bodies.items():
        unwritten = f'raise NotImplementedError("write {name}")'
        assert unwritten in text, name
        text = text.replace(unwritten, body)
    return text


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Check a folder with a fault of each kind; return folder, status, outcomes and output."""
    folder = tmp_path_factory.mktemp("faults")
    for lesson in ("tensors", "training", "validation"):
        own = {name: body for name, body in BODIES.items() if BY_NAME[name].lesson == lesson}
        (folder / f"{lesson}.py").write_text(with_bodies(lesson_file(lesson), **own))
    with (folder / "validation.py").open("a") as file:
        file.write("\n\ndef helper(*arguments):\n    raise NotImplementedError\n")
        file.write(f"\n\n{BY_NAME['correct'].solution.replace('correct', 'correct', 1)}")
    (folder / "autograd.py").write_text("def history(tensor:\n    return []\n")
    (folder / "checkpoints.py").write_text(
        with_bodies(lesson_file("checkpoints"), snapshot="return {}") + "\n\n1 / 0\n"
    )
    there = [each for each in TECHNIQUES if (folder / f"{each.lesson}.py").exists()]
    outcomes = checking.check(folder, there, limit=10)
    return types.SimpleNamespace(
        folder=folder, outcomes={outcome.technique.name: outcome for outcome in outcomes}
    )


@pytest.fixture
def told(faults, monkeypatch, capsys):
    """Return what the command prints if one technique is the first that does not pass."""

    def tell(name, *options):
        chosen = [faults.outcomes[name]]
        monkeypatch.setattr(command, "check", lambda *arguments: chosen)
        line = ["practice", "--check", str(faults.folder), *options]
        status = main(line)
        return status, capsys.readouterr().out

    return tell


def imported(path, name):
    """Import a file under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------- what is written


def test_every_lesson_with_laws_has_techniques_to_write():
    """All lessons but the ones without laws can be practised, with most of the laws judging."""
    lessons = {technique.lesson for technique in TECHNIQUES}
    laws = [law for technique in TECHNIQUES for law in technique.laws]

    assert lessons >= set(LESSONS) - {"devices"}
    assert len(laws) == len(set(laws)) > len(OTHER_LAWS)


@pytest.mark.parametrize("lesson", dict.fromkeys(each.lesson for each in TECHNIQUES))
def test_a_practice_file_has_signatures_and_docstrings_and_no_bodies(lesson):
    """Each technique is there as the library has it, but for its body."""
    tree = ast.parse(lesson_file(lesson))
    found = {node.name: node for node in tree.body if hasattr(node, "name")}

    assert list(found) == [each.name for each in TECHNIQUES if each.lesson == lesson]
    for name, node in found.items():
        ours = BY_NAME[name].node
        assert ast.get_docstring(node) == ast.get_docstring(ours)
        for function in (part for part in ast.walk(node) if isinstance(part, ast.FunctionDef)):
            theirs = next(
                part
                for part in ast.walk(ours)
                if isinstance(part, ast.FunctionDef) and part.name == function.name
            )
            assert ast.unparse(function.args) == ast.unparse(theirs.args)
            assert ast.unparse(function.body[-1]).startswith("raise NotImplementedError(")
            assert len(function.body) <= 2


@pytest.mark.parametrize("lesson", dict.fromkeys(each.lesson for each in TECHNIQUES))
def test_the_examples_of_a_practice_file_run_once_it_is_solved(lesson, tmp_path):
    """Imports and names that the docstrings' examples need are there."""
    own = [technique for technique in TECHNIQUES if technique.lesson == lesson]
    (tmp_path / "solved.py").write_text(solved(lesson_file(lesson), own))
    module = imported(tmp_path / "solved.py", f"solved_{lesson}")

    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0


def test_writing_leaves_a_learners_file_alone(tmp_path, monkeypatch, capsys):
    """What is there stays; what is missing is added; if nothing is missing, that is an error."""
    monkeypatch.chdir(tmp_path)
    assert main(["practice", "tensors"]) == 0
    written = Path("practice/tensors.py")
    written.write_text("mine = 1\n")

    assert main(["practice", "tensors"]) == 2
    assert main(["practice"]) == 0

    assert written.read_text() == "mine = 1\n"
    said = capsys.readouterr()
    assert "nothing is written over: practice/tensors.py is there already" in said.err
    assert "left practice/tensors.py as it is" in said.out
    lessons = {technique.lesson for technique in TECHNIQUES}
    assert {path.stem for path in Path("practice").iterdir()} == lessons


# ------------------------------------------------- what is judged


def test_the_librarys_own_solutions_pass_every_law(tmp_path, capsys):
    """Solutions pasted into a practice file pass, and an unchanged file is not judged again."""
    own = [technique for technique in TECHNIQUES if technique.lesson == "tensors"]
    (tmp_path / "tensors.py").write_text(solved(lesson_file("tensors"), own))

    status = main(["practice", "--check", str(tmp_path)])

    printed = capsys.readouterr().out
    assert status == 0
    assert "4 of 4" in printed
    assert "from_numpy passes." in printed
    assert "All that is here passes." in printed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "run_pytest", lambda *arguments: pytest.fail("it ran again"))
        assert main(["practice", "--check", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "tensors.py"]


def test_what_is_not_written_is_next(told):
    """An untouched technique is told by its claim and its law, not by an error."""
    status, printed = told("fill_through_view")

    assert status == 1
    assert "Next: write fill_through_view in tensors.py" in printed
    assert "tensors.view-is-a-new-tensor (corrected)" in printed
    assert "NotImplementedError" not in printed


def test_an_endless_loop_is_stopped_and_its_line_is_told(told):
    """A function that goes on for ever is stopped; the others are judged all the same."""
    _, printed = told("centre")

    assert "ran for more than 10 seconds on one example" in printed
    assert "in centre" in printed
    assert "tensors.py, line" in printed


def test_an_exception_is_told_with_the_learners_own_line(told):
    """The line and the error are shown, and nothing of pytest's or Hypothesis's insides."""
    status, printed = told("to_numpy")

    assert status == 1
    assert "KeyError: torch." in printed
    assert "in to_numpy" in printed
    assert "return nothing[tensor.dtype]" in printed
    assert "Traceback" not in printed
    assert "hypothesis" not in printed


def test_a_broken_law_is_told_with_call_result_reason_and_smallest_input(told):
    """Claim, sentence, what was called, what came back, the law's words, the counterexample."""
    _, printed = told("train_step")
    lines = [" ".join(line.split()) for line in printed.splitlines()]

    assert "train_step breaks a law" in lines
    assert "training.step-order (holds)" in lines
    assert any(line.startswith("A step follows its own batch alone: It lands") for line in lines)
    assert any(line.startswith("called train_step(") for line in lines)
    assert any(line.startswith("came back 0.69") for line in lines)
    assert any(line.startswith("the law a step follows the gradient of its own") for line in lines)
    assert any(line.startswith("smallest input drawn=") for line in lines)


def test_a_classic_mistake_is_told_its_name(told):
    """A step that forgets zero_grad is 'never zeroes', with that mistake's own sentence."""
    _, printed = told("train_step")

    assert "This is 'never zeroes'" in printed
    assert "Forget zero_grad." in printed


def test_prints_are_shown_as_they_are_and_break_nothing(told):
    """What the learner prints is told as printed, never taken for markup."""
    _, printed = told("from_numpy")

    assert "[bold]noise[/bold]" in printed
    assert "This is 'copies the array'" in printed


def test_another_mistake_gets_no_name(told):
    """A function that is wrong in its own way breaks the law, and is called nothing."""
    _, printed = told("descent_direction")

    assert "descent_direction breaks a law" in printed
    assert "This is" not in printed


def test_the_end_of_python_is_told(told):
    """A function that ends the process fails its law."""
    _, printed = told("accuracy")

    assert "ended Python itself" in printed


def test_a_part_that_is_not_written_is_told(told):
    """NotImplementedError from a helper is no riddle."""
    _, printed = told("confusion_matrix")

    assert "A part of confusion_matrix is not written yet." in printed
    assert "in helper" in printed


def test_a_syntax_error_is_told_with_its_line(told):
    """A file that Python cannot read is named with the line, and no other lesson suffers."""
    _, printed = told("history")

    assert "autograd.py cannot be read" in printed
    assert "SyntaxError" in printed
    assert "autograd.py, line 1" in printed
    assert "def history(tensor:" in printed


def test_an_error_at_import_is_told_with_its_line(told):
    """So is a file that raises when it is imported."""
    _, printed = told("snapshot")

    assert "ZeroDivisionError" in printed
    assert "1 / 0" in printed


def test_a_function_beside_faults_passes(faults):
    """The others are judged on their own: the library's `correct` passes in the same folder."""
    assert faults.outcomes["correct"].state == "passed", faults.outcomes["correct"].failure
    passed = json.loads((faults.folder / "progress.json").read_text())["passed"]
    assert list(passed) == ["correct"]


def test_a_hint_is_given_on_request_only(told):
    """The hint tells the ledger's law, its mistakes, and where to read."""
    _, plain = told("train_step")
    _, hinted = told("train_step", "--hint")

    assert "Optimizing Model Parameters" not in plain
    assert "practice --check" in plain
    assert 'PyTorch documentation, "Optimizing Model Parameters".' in hinted
    assert "a mistake" in hinted
    assert "zero_grad()" not in hinted


def test_a_solution_is_shown_on_request_only(told, capsys):
    """The library's own source is printed for a name, or for the first failure."""
    _, plain = told("train_step")
    _, asked = told("train_step", "--solution")
    status = main(["practice", "--solution", "train_step"])

    source = BY_NAME["train_step"].solution
    assert source not in plain
    assert source in asked
    assert status == 0
    assert source in capsys.readouterr().out


# ------------------------------------------------- what is remembered


def test_a_verdict_lasts_until_the_code_it_depends_on_changes():
    """Comments and other functions do not matter; the function and its helpers do."""
    text = "import torch\n\ndef helper(x):\n    return x\n\ndef centre(x):\n    return helper(x)\n"
    centre = BY_NAME["centre"]
    before = fingerprint(text, centre)

    assert fingerprint(text + "\n# a comment\ndef other(): pass\n", centre) == before
    assert fingerprint(text.replace("return x\n", "return -x\n"), centre) != before
    assert fingerprint(text.replace("return helper(x)", "return x"), centre) != before


@pytest.mark.parametrize("content", ["{", "[]", '{"passed": 3}'])
def test_damaged_progress_is_explained(content, tmp_path, capsys):
    """A progress file that cannot be read is an error that says what to do."""
    (tmp_path / "tensors.py").write_text(lesson_file("tensors"))
    (tmp_path / "progress.json").write_text(content)

    assert main(["practice", "--check", str(tmp_path)]) == 2
    assert "progress.json is damaged; delete it" in capsys.readouterr().err


@pytest.fixture
def heeds_ctrl_c():
    """Let processes that are started heed Ctrl-C: those of a shell's background jobs do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_save_is_checked_and_ctrl_c_ends(tmp_path):
    """With --watch each save is judged anew, until Ctrl-C, and the status is the last one's."""
    path = tmp_path / "tensors.py"
    path.write_text(lesson_file("tensors"))
    line = [sys.executable, "-u", "-m", "dlconcepts", "practice", "--check", str(tmp_path)]
    with subprocess.Popen(
        [*line, "--watch"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        first = read_until(process.stdout, "Waiting")
        path.write_text("def centre(:\n")
        second = read_until(process.stdout, "Waiting")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()

    assert "Next: write fill_through_view" in first
    assert "tensors.py cannot be read" in second
    assert (process.returncode, rest.strip()) == (1, "")


def read_until(lines, word):
    """Return what a process prints up to a line that begins with a word."""
    text = ""
    for line in lines:
        text += line
        if line.startswith(word):
            break
    return text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--check nowhere", "there is no folder nowhere"),
        ("--check empty", "there is no practice file in empty"),
        ("--check empty --out other", "with --check, give it as --check FOLDER"),
        ("--check empty --limit 0", "--limit is a number of seconds above 0, not 0"),
        ("--watch", "go with --check"),
        ("--hint", "go with --check"),
        ("--solution", "go with --check"),
        ("--solution gradients", "there is no technique 'gradients'; choose one of "),
        ("tensors --out file", "file"),
    ],
)
def test_bad_input_is_explained(line, words, tmp_path, monkeypatch, capsys):
    """What cannot work is answered with one sentence and the status 2, and leaves nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")

    assert main(["practice", *line.split()]) == 2

    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_an_installed_package_without_laws_says_where_they_are(monkeypatch, tmp_path, capsys):
    """Without the repository there is nothing to judge by."""
    monkeypatch.setattr(command, "TESTS", tmp_path / "tests")

    assert main(["practice"]) == 2
    assert "clone the repository and run `pip install -e .`" in capsys.readouterr().err


# ------------------------------------------------- mistakes by their names


@pytest.fixture(scope="module")
def judged():
    """Return, for each technique of lesson 1, its laws as recognising takes them."""
    module = imported(TESTS / "test_tensors.py", "laws_of_tensors")
    found = {}
    for technique in TECHNIQUES:
        if technique.lesson == "tensors":
            laws = [getattr(module, law.function) for law in technique.laws]
            marks = [mark for law in laws for mark in law.pytestmark if mark.name == "claim"]
            found[technique.name] = [
                (law, next(iter(inspect.signature(law).parameters)), mark.kwargs)
                for law, mark in zip(laws, marks, strict=True)
            ]
    return found


def names_given(laws, subject):
    """Return the names that a learner's function gets, the law that rejects it first."""
    laws = [recognise.Judged(law, name, subject, mark["wrong"]) for law, name, mark in laws]
    deadline = time.monotonic() + 60
    failing = [
        law
        for law in laws
        if any(example.said for example in recognise.examples_of(law, deadline, lambda: None))
    ]
    assert failing, "the laws reject it"
    ordered = sorted(laws, key=lambda law: law is not failing[0])
    return {name for name, _ in recognise.recognise(ordered, lambda: None)}


def under(name, function):
    """Return a copy of a function under another name, as a learner would have written it."""
    copy = types.FunctionType(function.__code__, function.__globals__, name)
    copy.__qualname__ = name
    return copy


def test_every_mistake_of_a_lesson_is_recognised_by_what_it_does(judged):
    """Each mistake of lesson 1, written as a technique, gets its own name.

    It gets another's beside it only where no law of the technique tells the two apart.
    """
    alike = {"copies the array", "clones on the way"}
    for technique, laws in judged.items():
        for mistake in {mistake for *_, mark in laws for mistake in mark["wrong"]}:
            own = mistake.__name__.replace("_", " ")

            given = names_given(laws, under(technique, mistake))

            assert own in given, f"{own} is recognised"
            assert given <= ({own} if own not in alike else alike), f"{own} has its own name"


@pytest.mark.parametrize(
    ("technique", "source"),
    [
        ("centre", "lambda tensor: tensor"),
        ("centre", "lambda tensor: tensor.reshape(-1) - tensor.max()"),
        ("centre", "lambda tensor: tensor.sub_(1).reshape(-1)"),
        ("from_numpy", "lambda array: torch.tensor(array) + 1"),
        ("from_numpy", "lambda array: None"),
        ("from_numpy", "lambda array: torch.zeros(array.shape)"),
        ("to_numpy", "lambda tensor: tensor.detach().to_dense().float().numpy(force=True) * 0"),
        ("fill_through_view", "lambda tensor, value: tensor.clone().fill_(value)"),
    ],
)
def test_a_function_that_is_wrong_in_its_own_way_gets_no_name(judged, technique, source):
    """Nothing is called by a name that it does not deserve, though it breaks the same law."""
    module = sys.modules["laws_of_tensors"]
    subject = under(technique, eval(source, vars(module)))

    assert names_given(judged[technique], subject) == set()
