"""Whatever a learner's file holds: one message, with the learner's line, and the rest is judged."""

import pytest

from tests.practice.common import BY_NAME, check, write

# What stands in the function, and what is said of it.
BODIES = {
    "nll_loss": ("exit()", ["It calls exit().", "validation.py", "exit()"]),
    "history": ("return history(tensor)", ["RecursionError", "autograd.py"]),
    "normalize": (
        "return torch.ones(3 * 10**9)",
        ["RuntimeError", "allocate", "networks.py", "torch.ones(3 * 10**9)"],
    ),
    "flatten": ('return "flat"', ["'flat'", "What came back is of type str, not Tensor."]),
    "centre": ("return tensor - tensor.mean()", ["What came back has shape", "not (4,)."]),
    # The report adds what the repr of an argument does not show.
    "fill_through_view": ("return tensor.reshape(-1).fill_(value)", ["argument 1", "has strides"]),
    "from_numpy": ("return torch.tensor(array)", ["argument 1", "is read-only"]),
    "gradient": (
        "x.zero_()\n    return x",
        ["gradient(", "expected"],
    ),
    "evaluate": (
        "[0 for _ in __import__('itertools').count()]",
        ["more than 1,000,000 steps", "validation.py"],
    ),
    "descent_direction": (
        "try:\n        raise SystemExit\n    finally:\n        raise KeyboardInterrupt",
        ["KeyboardInterrupt", "training.py"],
    ),
    "batches": ("import socket\n    socket.create_connection(('localhost', 1))", ["no network"]),
}
# Right answers beside them.
RIGHT = {
    "correct": 'print("called")\n    ',
    "central_differences": "",
}
FILES = {
    "images": (
        "import a_library_that_is_not_there\n",
        ["ModuleNotFoundError", "images.py, line 1"],
    ),
    "transfer": ("import sys\nsys.exit('done')\n", ["It calls exit().", "transfer.py, line 2"]),
    "devices": ("def move(model):\n\tif model:\n        return 1\n", ["TabError", "devices.py"]),
    "checkpoints": ("while True:\n    pass\n", ["more than 1,000,000 steps", "checkpoints.py"]),
}
# Python waits for it at its end.
ENDLESS_THREAD = "import threading\nthreading.Thread(target=threading.Event().wait).start()"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Check a folder with all of these, once for all tests."""
    folder = tmp_path_factory.mktemp("troubles")
    bodies = {name: body for name, (body, _) in BODIES.items()}
    for name, body in RIGHT.items():
        solution = BY_NAME[name].solution
        bodies[name] = body + solution.rpartition('"""\n    ')[2]
    lessons = list(dict.fromkeys(BY_NAME[name].lesson for name in bodies))
    for lesson in lessons:
        own = {name: body for name, body in bodies.items() if BY_NAME[name].lesson == lesson}
        write(folder, lesson, own, f"torch.manual_seed(0)\n{ENDLESS_THREAD}")
    for lesson, (text, _) in FILES.items():
        name = next(name for name, each in BY_NAME.items() if each.lesson == lesson)
        (folder / f"{lesson}.py").write_text(f"{text}\n\ndef {name}(*arguments):\n    return 1\n")
    path = folder / "networks.py"
    text = path.read_text().replace("def sequential(", "def sequentail(")
    path.write_text(text + "\n\nclass view_classify:\n    def run(self):\n        pass\n")
    return check(folder, [*lessons, *FILES])


@pytest.mark.parametrize("name", BODIES)
def test_a_fault_in_a_function_is_one_message(name, outcomes):
    """It says what happened, with the line of the learner where there is one."""
    assert outcomes[name].state == "failed"
    said = "\n".join(f"{heading} {text}" for heading, text in outcomes[name].rows)
    for words in BODIES[name][1]:
        assert words in said, said
    assert "Traceback" not in said


@pytest.mark.parametrize("lesson", FILES)
def test_a_file_that_python_cannot_run_is_one_message(lesson, outcomes):
    """It names the error and the learner's line."""
    own = (each for each in outcomes.values() if each.technique.lesson == lesson)
    outcome = next(each for each in own if each.rows)
    said = "\n".join(text for _, text in outcome.rows)
    assert outcome.state == "broken"
    for words in FILES[lesson][1]:
        assert words in said, said


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_beside_them_passes(name, outcomes):
    """Prints, and a seed for the whole process, do not matter."""
    assert outcomes[name].state == "passed", outcomes[name].rows


def test_a_misspelt_function_is_named(outcomes):
    """The learner sees which name is close."""
    assert outcomes["sequential"].state == "unwritten"
    assert outcomes["sequential"].rows == [("problem", "There is no sequential. Is it sequentail?")]


def test_a_class_in_place_of_a_function_is_refused(outcomes):
    """The exercise says which of the two it is."""
    assert outcomes["view_classify"].state == "failed"
    assert (
        "view_classify is a class; the exercise is a function." in outcomes["view_classify"].rows[0]
    )
