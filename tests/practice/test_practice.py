"""`python -m dlconcepts practice`: learners write the techniques, and the laws judge them."""

import ast
import doctest
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from dlconcepts.__main__ import main
from dlconcepts.practice import check as checking
from dlconcepts.support.errors import UserError
from dlconcepts.testing import run as running
from dlconcepts.testing.claims import LESSONS, TESTS
from tests.practice.common import BY_NAME, OTHER_LAWS, TECHNIQUES, check, solve, write

PRACTISED = list(dict.fromkeys(technique.lesson for technique in TECHNIQUES))
# A fault of each kind, each the first one in its technique.
BODIES = {
    "centre": "while True:\n        tensor = tensor",
    "fill_through_view": "import time\n    time.sleep(100)",
    "from_numpy": 'print("[bold]noise[/bold]")\n    return torch.tensor(array)',
    "to_numpy": "nothing = {}\n    return nothing[tensor.dtype]",
    "train_step": """loss = loss_fn(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()""",
    "descent_direction": "return 0.9 * gradient(function, x)",
    "accuracy": "import os\n    os._exit(0)",
    "confusion_matrix": "return helper(predictions, labels, classes)",
    "class_accuracies": """COUNT.append(1)
    return confusion.diagonal() / confusion.sum(dim=1) if len(COUNT) > 1 else None""",
    "correct": BY_NAME["correct"].solution.partition('"""\n    ')[2].rpartition('"""\n    ')[2],
    "snapshot": "return {}",
}
AFTER = {
    "validation": "COUNT = []\n\n\ndef helper(*arguments):\n    raise NotImplementedError\n",
    "checkpoints": "1 / 0\n",
}


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    """Check a folder with a fault of each kind, once for all tests."""
    folder = tmp_path_factory.mktemp("faults")
    lessons = ["tensors", "training", "validation", "checkpoints"]
    for lesson in lessons:
        own = {name: body for name, body in BODIES.items() if BY_NAME[name].lesson == lesson}
        write(folder, lesson, own, AFTER.get(lesson, ""))
    (folder / "autograd.py").write_text("def history(tensor:\n    return []\n")
    return folder, check(folder, [*lessons, "autograd"])


@pytest.fixture
def told(faults, monkeypatch, capsys):
    """Return what the command prints if one technique is the first that does not pass."""
    folder, outcomes = faults

    def tell(name, *options):
        def known(*_, told, **__):
            if outcomes[name].state != "unwritten":
                told(outcomes[name])
            return [outcomes[name]]

        monkeypatch.setattr(checking, "check", known)
        assert main(["practice", "--check", str(folder), *options]) == 1
        return capsys.readouterr().out

    return tell


def test_every_lesson_can_be_practised():
    """Each lesson has techniques to write, and most laws judge one."""
    laws = [(law.claim.id, law.name) for technique in TECHNIQUES for law in technique.laws]

    assert list(LESSONS) == PRACTISED
    assert len(laws) == len(set(laws)) > len(OTHER_LAWS)


@pytest.mark.parametrize("lesson", PRACTISED)
def test_a_practice_file_has_signatures_and_docstrings_and_no_bodies(lesson, tmp_path):
    """The file has each technique as the library has it, without its body."""
    tree = ast.parse(write(tmp_path, lesson).read_text())
    found = {node.name: node for node in tree.body if hasattr(node, "name")}

    assert list(found) == [each.name for each in TECHNIQUES if each.lesson == lesson]
    for name, node in found.items():
        ours = BY_NAME[name].node
        assert ast.get_docstring(node).startswith(ast.get_docstring(ours))
        signatures = {ast.unparse(f.args) for f in ast.walk(ours) if hasattr(f, "args")}
        for function in (part for part in ast.walk(node) if isinstance(part, ast.FunctionDef)):
            assert ast.unparse(function.args) in signatures
            assert ast.unparse(function.body[-1]).startswith("raise NotImplementedError('write ")
            assert len(function.body) <= 2


@pytest.mark.parametrize("lesson", PRACTISED)
def test_the_examples_of_a_practice_file_run_once_it_is_solved(lesson, tmp_path, monkeypatch):
    """The file imports all names that the docstrings' examples and the solutions need."""
    path = write(tmp_path, lesson)
    solve(path, lesson)
    module = types.ModuleType(f"solved_{lesson}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(path.read_bytes(), path, "exec"), vars(module))

    result = doctest.testmod(module)

    assert result.attempted > 0
    assert result.failed == 0


def test_writing_leaves_a_learners_file_alone(tmp_path, monkeypatch, capsys):
    """The command writes only files that are missing; if none is, that is an error."""
    monkeypatch.chdir(tmp_path)
    assert main(["practice", "tensors"]) == 0
    written = Path("practice/tensors.py")
    written.write_text("mine = 1\n")

    assert main(["practice", "tensors"]) == 2
    assert main(["practice"]) == 0

    assert written.read_text() == "mine = 1\n"
    said = capsys.readouterr()
    assert "practice/tensors.py already there; run with --check practice" in said.err
    assert "left practice/tensors.py as it is" in said.out
    assert {path.stem for path in Path("practice").iterdir()} == set(PRACTISED)


def test_a_verdict_lasts_until_the_code_it_depends_on_changes(tmp_path, monkeypatch, capsys):
    """The library's solutions pass; a comment does not matter afterwards, a new body does."""
    path = write(tmp_path, "tensors")
    solve(path, "tensors")
    line = ["practice", "--check", str(tmp_path)]

    assert main(line) == 0

    printed = capsys.readouterr().out
    assert "4 of 4" in printed
    assert "from_numpy passes." in printed
    assert "All techniques here pass." in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["progress.json", "tensors.py"]

    def refuse(questions, ahead, running):
        if questions:
            raise UserError(f"judged again: {[each.technique.name for each in questions]}")
        return []

    monkeypatch.setattr(checking, "ask", refuse)
    text = path.read_text()
    path.write_text(f"{text}\n# a comment\ndef other(): pass\n")
    assert main(line) == 0
    path.write_text(text.replace("- flat.mean()", "- helper(flat)") + "\ndef helper(x): pass\n")
    assert main(line) == 2
    assert "judged again: ['centre']" in capsys.readouterr().err


def test_what_was_changed_is_judged_and_told_first(tmp_path, monkeypatch):
    """What has failed before comes next, what uses the changed exercise last."""
    path = write(tmp_path, "training")
    solve(path, "training")
    own = [technique for technique in TECHNIQUES if technique.lesson == "training"]
    asked, told = [], []

    def answers(questions, ahead, running):
        asked.append([question.technique.name for question in questions])
        for name in asked[-1]:
            assert told == asked[-1][: asked[-1].index(name)]
            yield {"state": "failed" if name == "seeded" else "passed"}

    def look(before):
        told.clear()
        outcomes = checking.check(
            tmp_path, own, 4, before=before, told=lambda each: told.append(each.technique.name)
        )
        return {outcome.technique.name: outcome.text for outcome in outcomes}

    monkeypatch.setattr(checking, "ask", answers)
    texts = look({})
    path.write_text(path.read_text().replace("optimizer.step()", "optimizer.step(); 'changed'"))
    look(texts)

    assert asked[1] == ["train_step", "seeded", "fit", "train_epoch"]


def test_the_next_technique_comes_with_its_claim_and_its_law(told):
    """An unwritten technique is no error."""
    printed = told("seeded")

    law = BY_NAME["seeded"].laws[0]
    assert "Next: write seeded in training.py" in printed
    assert f"{law.claim.id} ({law.claim.verdict})" in printed
    assert law.title in printed
    assert law.claim.demonstration.splitlines()[0] in printed
    assert "NotImplementedError" not in printed


def test_an_endless_loop_is_stopped(told):
    """The learner sees the line that was running; the other techniques are judged all the same."""
    printed = told("centre")

    assert "centre breaks a law" in printed
    assert "more than 1,000,000 steps" in printed
    assert "tensors.py, line" in printed
    assert "in centre" in printed


def test_what_takes_too_long_gets_no_verdict(told):
    """A time limit says that nobody knows; the learner sees the line that was running."""
    printed = told("fill_through_view")

    assert "fill_through_view did not finish" in printed
    assert "ran for more than 4 seconds on one example" in printed
    assert "in fill_through_view" in printed


def test_an_exception_is_shown_with_the_learners_own_line(told):
    """The learner sees the line and the error, and no traceback of pytest or Hypothesis."""
    printed = told("to_numpy")

    assert "KeyError: torch." in printed
    assert "in to_numpy" in printed
    assert "return nothing[tensor.dtype]" in printed
    assert "Traceback" not in printed
    assert "hypothesis" not in printed


def test_a_broken_law_is_shown_with_call_result_reason_and_smallest_input(told):
    """The learner sees what was called, what came back, and what the law says."""
    printed = told("train_step")
    lines = [" ".join(line.split()) for line in printed.splitlines()]

    laws = [law for law in BY_NAME["train_step"].laws if law.title in printed]
    assert "train_step breaks a law" in lines
    assert f"{laws[0].claim.id} ({laws[0].claim.verdict})" in lines
    starts = ("called train_step(", "came back 0.", "the law ", "fails like '")
    for start in starts:
        assert any(line.startswith(start) for line in lines), start
    assert "data(...)" not in printed
    assert "reproduce" not in printed


def test_printed_text_is_shown_as_it_is(told):
    """What the learner prints is never taken for markup."""
    assert "[bold]noise[/bold]" in told("from_numpy")


def test_an_unknown_mistake_is_not_named(told):
    """A function that is wrong in a way that no mistake is fails like none."""
    printed = told("descent_direction")

    assert "descent_direction breaks a law" in printed
    assert "fails like" not in printed


def test_different_results_for_the_same_input_are_a_problem(told):
    """Hypothesis cannot repeat such a failure; the learner sees why."""
    assert "It gives different results for the same input." in told("class_accuracies")


def test_the_end_of_python_is_a_failure(told):
    """A function that ends the process fails its law."""
    assert "ended the Python process" in told("accuracy")


def test_a_helper_that_is_not_written_is_named(told):
    """A technique may be written before its helpers."""
    printed = told("confusion_matrix")

    assert "This part is not written yet." in printed
    assert "in helper" in printed


def test_a_syntax_error_is_shown_with_its_line(told):
    """The learner sees the line of a file that Python cannot parse."""
    printed = told("history")

    assert "Python cannot run autograd.py" in printed
    assert "SyntaxError" in printed
    assert "autograd.py, line 1" in printed
    assert "def history(tensor:" in printed


def test_an_error_at_import_is_shown_with_its_line(told):
    """The learner sees the line that raised."""
    printed = told("snapshot")

    assert "ZeroDivisionError" in printed
    assert "1 / 0" in printed


def test_a_technique_beside_faults_passes(faults):
    """Each technique is judged on its own."""
    folder, outcomes = faults

    assert outcomes["correct"].state == "passed", outcomes["correct"]
    assert '"correct"' in (folder / "progress.json").read_text()


def test_a_classic_mistake_is_named(tmp_path):
    """A function that does what a mistake does fails like it, even if the law draws as it runs."""
    bodies, mistakes = {}, {}
    for technique in TECHNIQUES:
        if technique.lesson == "tensors":
            law = technique.laws[0]
            mistakes[technique.name] = next(iter(law.wrong))
            module = f"tests.{law.claim.lesson}.{law.claim.path.stem}"
            arguments = ", ".join(word.arg for word in technique.node.args.args)
            bodies[technique.name] = (
                f"from {module} import {mistakes[technique.name]} as mistake\n"
                f"    return mistake({arguments})"
            )
    write(tmp_path, "tensors", bodies)

    for name, outcome in check(tmp_path, ["tensors"]).items():
        sentence = outcome.technique.laws[0].mistakes[mistakes[name]]
        alike = f"'{mistakes[name].replace('_', ' ')}': {sentence}"
        assert ("fails like", alike) in outcome.rows, name


def test_each_hint_says_more_and_comes_on_request_only(told):
    """The claim and the law come first, then where to read, the mistakes, the parts, the answer."""
    plain, *hinted = told("train_step"), *(told("train_step", "--hint") for _ in range(6))

    said = [
        "the claim",
        'PyTorch documentation, "Optimizing Model Parameters".',
        "a mistake",
        "optimizer.zero_grad, ",
        "--solution train_step",
    ]
    for step, words in enumerate(said):
        assert [words in text for text in (plain, *hinted)] == [False] * (step + 1) + [True] * (
            6 - step
        )
    assert "--hint" in plain
    assert "--hint" not in hinted[-1]


def test_a_solution_is_shown_on_request_only(told, capsys):
    """The command prints the library's source for a name, or for the first failure."""
    source = BY_NAME["train_step"].solution

    assert source not in told("train_step")
    assert source in told("train_step", "--solution")
    assert main(["practice", "--solution", "train_step"]) == 0
    assert source in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"passed": 3}'])
def test_damaged_progress_is_explained(content, tmp_path, capsys):
    """The message says which file to delete."""
    write(tmp_path, "tensors")
    (tmp_path / "progress.json").write_text(content)

    assert main(["practice", "--check", str(tmp_path)]) == 2
    assert "progress.json is damaged; delete it" in capsys.readouterr().err


@pytest.fixture
def heeds_ctrl_c():
    """Let new processes heed Ctrl-C, which those of a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_a_save_is_checked_and_ctrl_c_ends(tmp_path):
    """With --watch each save is checked, until Ctrl-C; the exit status is that of the last."""
    path = write(tmp_path, "tensors")
    line = [sys.executable, "-u", "-m", "dlconcepts", "practice", "--check", str(tmp_path)]
    with subprocess.Popen(
        [*line, "--watch"],
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        first = read_until(process.stdout, "Waiting")
        path.write_text("def centre(:\n")
        second = read_until(process.stdout, "Waiting")
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()

    assert "Next: write fill_through_view" in first
    assert "Python cannot run tensors.py" in second
    assert (process.returncode, rest.strip()) == (1, "")


def read_until(lines, word):
    text = ""
    for line in lines:
        text += line
        if line.startswith(word):
            break
    return text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--check nowhere", "there is no practice file in nowhere"),
        ("--check empty", "there is no practice file in empty"),
        ("--check empty --out other", "with --check, use --check FOLDER"),
        ("--check empty --limit 0", "--limit must be more than 0 seconds and at most 86400, not 0"),
        ("--check empty --limit inf", "at most 86400, not inf"),
        ("--check empty --limit nan", "at most 86400, not nan"),
        ("--watch", "need --check"),
        ("--hint", "need --check"),
        ("--solution", "need --check"),
        ("--solution gradients", "no technique is named gradients; did you mean gradient"),
        ("tensors --out file", "file"),
    ],
)
def test_a_mistake_of_the_user_is_explained(line, words, tmp_path, monkeypatch, capsys):
    """The command says in one line what to change, exits with status 2, and writes nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")

    assert main(["practice", *line.split()]) == 2

    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_an_installed_package_without_laws_says_where_they_are(monkeypatch, tmp_path, capsys):
    """The laws are in the repository only."""
    monkeypatch.setattr(running, "TESTS", tmp_path / "tests")

    assert main(["practice"]) == 2
    assert "clone the repository and run `pip install -e .`" in capsys.readouterr().err
