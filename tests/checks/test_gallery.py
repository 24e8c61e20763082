"""`dlconcepts.checks` names each mistake of the gallery, and accepts correct projects."""

import functools
import inspect
import json
import random
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

import tests.gallery as gallery
from dlconcepts import checks
from dlconcepts.checks import CheckFailedError, NotCheckedError
from dlconcepts.checks.project import PARTS
from dlconcepts.cli import main
from dlconcepts.support.bitwise import state_of
from dlconcepts.testing.claims import all_claims

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
CONTROLS = {mistake.right.__name__: mistake.right for mistake in gallery.MISTAKES}
FAMILIES = ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet"]


def complaints(report):
    return {result.check: result.details for result in report.failed}


# ------------------------------------------------------------------------ the gallery


@pytest.mark.parametrize("mistake", gallery.MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_named_by_its_check_and_by_no_other(mistake):
    """The right check fails and says why; no check fails without a reason."""
    report = checks.check(**mistake.wrong())

    found = complaints(report)
    assert set(found) == {mistake.check, *mistake.also}, "the checks that are concerned complain"
    assert mistake.says in found[mistake.check], "the message says what is wrong"
    assert all(result.status == "FAILED" for result in report.failed), "nothing else is wrong"


@pytest.mark.parametrize("name", CONTROLS)
def test_the_same_project_without_the_mistake_is_left_alone(name):
    """Each mistake has a control on which every check is silent."""
    assert complaints(report_on(name)) == {}


@functools.cache
def report_on(control):
    return checks.check(**CONTROLS[control]())


@pytest.mark.parametrize("mistake", gallery.MISTAKES, ids=lambda mistake: mistake.name)
def test_the_check_that_finds_a_mistake_passes_on_its_control(mistake):
    """A control counts only if the check has really run on it."""
    assert report_on(mistake.right.__name__)[mistake.check].status == "passed"


def judged(parts, name):
    try:
        checks.REGISTRY[name](**parts)
    except CheckFailedError:
        return "FAILED"
    except NotCheckedError:
        return "not checked"
    return "passed"


@pytest.mark.parametrize("name", gallery.CORRECT)
def test_a_correct_project_of_another_kind_is_left_alone(name):
    """No check complains about an unusual project that is right."""
    assert complaints(checks.check(**gallery.CORRECT[name]())) == {}


def test_every_check_has_a_mistake_that_it_must_find():
    """A check that nothing can fail proves nothing."""
    assert {mistake.check for mistake in gallery.MISTAKES} == set(checks.REGISTRY)


@pytest.mark.parametrize(
    ("name", "training"), [*((name, True) for name in FAMILIES), ("resnet18", False)]
)
def test_families_of_torchvision_are_left_alone(name, training):
    """A few small families pass in both modes; `benchmarks/checks.py` runs all models."""
    torch.manual_seed(0)
    settings = {"init_weights": True} if name == "googlenet" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet says that its weights are drawn slowly
        model = models.get_model(name, weights=None, num_classes=5, **settings).train(training)

    report = checks.check(
        model=model, batch=(torch.randn(2, 3, 64, 64), torch.arange(2)), loss_fn=of_all_outputs
    )

    assert complaints(report) == {}
    assert report["every-parameter-gets-a-gradient"].status == "passed"


def of_all_outputs(outputs, targets):
    parts = (
        [outputs] if isinstance(outputs, torch.Tensor) else [x for x in outputs if x is not None]
    )
    return sum(nn.functional.cross_entropy(part, targets) for part in parts)


# ------------------------------------------------------------------------ each check


def test_each_check_names_a_claim_that_the_course_proves():
    """A lesson refers to a claim that exists and is not an opinion, and has all of its parts."""
    verdicts = {claim.id: claim.verdict for claim in all_claims()}

    for name, check in checks.REGISTRY.items():
        lesson = check.lesson
        assert lesson.claim in verdicts, f"{name}: no claim {lesson.claim}"
        assert verdicts[lesson.claim] != "opinion", name
        assert all([lesson.concept, lesson.why, lesson.fix, lesson.reproducer]), name
        assert lesson.name == name == check.__name__.removeprefix("check_").replace("_", "-")
        assert getattr(checks, check.__name__) is check, "each check can be called by itself"


@pytest.mark.parametrize("name", checks.REGISTRY)
def test_a_check_alone_raises_the_lesson(name):
    """A check that is called directly raises for the mistake and not for the control."""
    mistake = next(mistake for mistake in gallery.MISTAKES if mistake.check == name)
    check = checks.REGISTRY[name]

    with pytest.raises(CheckFailedError) as caught:
        check(**mistake.wrong())
    check(**mistake.right())

    lesson = caught.value.lesson
    text = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    for part in (lesson.concept, lesson.why, lesson.fix, lesson.claim, caught.value.observed):
        assert part in text
    assert mistake.says in caught.value.observed


def test_a_check_alone_says_which_part_is_missing():
    """A check that lacks a part raises NotCheckedError."""
    with pytest.raises(NotCheckedError, match="needs train_step or fit"):
        checks.check_a_step_follows_its_own_batch(model=nn.Linear(1, 1), batch=(0, torch.ones(1)))


def test_the_checks_import_neither_pytest_nor_the_lessons():
    """Importing the checks imports PyTorch, and no other module of this project."""
    code = (
        "import sys, dlconcepts.checks\n"
        "ours = {n for n in sys.modules if n.startswith('dlconcepts')}\n"
        "print(sorted(n for n in ours if not n.startswith('dlconcepts.checks')))\n"
        "print(sorted(sys.modules.keys() & {'pytest', 'hypothesis', 'torchvision', 'scipy'}))\n"
    )

    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stdout == "['dlconcepts']\n[]\n"


# ------------------------------------------------------------------------ reproducers


def reproduce(name, parts):
    inputs, targets = parts["batch"]
    pairs = torch.utils.data.TensorDataset(inputs, targets)
    names = dict.fromkeys(PARTS) | {"torch": torch, "inputs": inputs, "targets": targets}
    names |= parts
    if not name.startswith(("labels", "shared", "workers")):
        names["loader"] = torch.utils.data.DataLoader(pairs, 2)
    if not isinstance(parts["optimizer"], torch.optim.Optimizer):
        names["optimizer"] = parts["optimizer"](parts["model"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MSELoss warns of shapes that it broadcasts
        exec(checks.REGISTRY[name].lesson.reproducer, names)


@pytest.mark.parametrize("name", checks.REGISTRY)
def test_a_reproducer_shows_the_mistake_in_plain_torch(name, tmp_path, monkeypatch):
    """The reproducer's assertion fails on the mistake, and holds on the control."""
    monkeypatch.chdir(tmp_path)
    mistake = next(mistake for mistake in gallery.MISTAKES if mistake.check == name)

    with pytest.raises(AssertionError):
        reproduce(name, mistake.wrong())
    reproduce(name, mistake.right())


# ------------------------------------------------------------------------ the report


def broken_step(model, loss_fn, optimizer, inputs, targets):
    model.eval()
    optimizer.param_groups[0]["lr"] = 7
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    model.head.weight.data.zero_()
    model.head = nn.Linear(1, 1)
    raise KeyError("the step is broken")


def states(parts):
    optimizer = parts["optimizer"].state_dict()
    groups = json.dumps(optimizer["param_groups"], default=str)
    momentum = [bytes(s["momentum_buffer"].numpy()) for s in optimizer["state"].values()]
    return (
        state_of(parts["model"]),
        [id(p) for p in parts["model"].parameters()],
        sorted(vars(parts["model"])),
        groups,
        momentum,
        parts["data"].array.tobytes(),
        torch.get_rng_state().tolist(),
        repr(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
    )


def trained_project(**changes):
    parts = gallery.base.project(**changes)
    gallery.base.train_step(parts["model"], parts["loss_fn"], parts["optimizer"], *parts["batch"])
    parts["model"].body[1].eval()
    return parts


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "model", [gallery.base.Network, gallery.correct.Closed], ids=["copied", "in-place"]
)
@pytest.mark.parametrize("step", [gallery.base.train_step, broken_step], ids=["works", "raises"])
def test_everything_is_as_before(step, model, training):
    """Model, optimizer, data, random states and settings are the same to the last bit."""
    torch.manual_seed(0)
    parts = trained_project(model=model(), train_step=step, fit=None)
    parts["model"].train(training)
    before = states(parts)

    report = checks.check(**parts)

    assert states(parts) == before
    assert report.ok == (step is gallery.base.train_step)


def test_what_the_functions_of_a_project_keep_is_as_before():
    """Closures, globals and schedulers are restored too."""
    model = gallery.base.Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    calls, history = 0, []

    def step(model, loss_fn, optimizer, inputs, targets):
        nonlocal calls
        calls += 1
        history.append(gallery.base.train_step(model, loss_fn, optimizer, inputs, targets))
        schedule.step()

    checks.check(
        **gallery.base.project(model=model, optimizer=optimizer, train_step=step, fit=None)
    )

    assert (calls, history, schedule.last_epoch) == (0, [], 0)
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_check_alone_leaves_everything_as_before():
    """Each check restores what it changed, as the whole report does."""
    for name, check in checks.REGISTRY.items():
        parts = trained_project() | {"batch": None}  # the loader has one
        before = states(parts)
        if judged(parts, name) != "not checked":
            assert states(parts) == before, check.__name__


def test_an_error_of_the_project_is_reported_with_its_own_line():
    """An error in the project's code is an error of the check that called it."""
    report = checks.check(**gallery.base.project(train_step=broken_step, fit=None))

    result = report["a-step-follows-its-own-batch"]
    line = inspect.getsourcelines(broken_step)[1] + 10
    assert result.status == "error"
    assert "KeyError: 'the step is broken'" in result.details
    assert f"test_gallery.py:{line}, in broken_step: raise KeyError" in result.details
    assert not report.ok
    assert report["examples-stay-apart"].status == "passed", "the other checks go on"


def test_what_is_not_checked_never_looks_like_passed():
    """Text, JSON and JUnit XML all name the missing part."""
    report = checks.check(model=gallery.base.Network(), batch=torch.randn(8, 4))

    result = report["the-mode-is-restored"]
    assert (result.status, result.details) == ("not checked", "needs evaluate")
    assert "not checked  the-mode-is-restored: needs evaluate" in str(report)
    cases = {case.get("name"): case for case in ET.fromstring(report.to_junit())}
    skipped = cases["the-mode-is-restored"].find("skipped")
    assert skipped.get("message") == "not checked: needs evaluate"
    counts = Counter(result.status for result in report.results)
    assert f"{counts['passed']} passed, {counts['not checked']} not checked" in report.summary()
    assert len(report.results) == len(checks.REGISTRY)


def test_the_same_project_gives_the_same_report():
    """The report does not depend on the random state, or on what ran before."""
    texts = []
    for number in (1, 2):
        mistake = next(m for m in gallery.MISTAKES if m.name == "functional_dropout_that_stays_on")
        parts = mistake.wrong()
        gallery.base.seed(number)
        texts += [str(checks.check(**parts)), str(checks.check(**parts))]

    assert texts == texts[:1] * 4


def test_the_report_says_how_many_passes_it_took():
    """A check costs a few dozen passes at most."""
    report = checks.check(**gallery.base.project())

    assert report.ok
    assert 0 < max(result.passes for result in report.results) <= 36
    assert report.passes == sum(result.passes for result in report.results)
    assert f"{report.passes} forward passes" in str(report)


def test_a_law_that_does_not_apply_is_named_with_the_reason():
    """A law in except_for is reported as excepted; it needs an existing name and a reason."""
    parts = {
        "model": gallery.forward.Sized(before=gallery.forward.minus_the_batch_mean),
        "batch": torch.randn(8, 4),
    }

    report = checks.check(**parts, except_for={"examples-stay-apart": "it centres the batch"})

    assert report.ok
    assert "excepted     examples-stay-apart: it centres the batch" in str(report)
    with pytest.raises(ValueError, match="did you mean 'examples-stay-apart'"):
        checks.check(**parts, except_for={"examples-stay-appart": "why"})
    with pytest.raises(ValueError, match="needs the reason"):
        checks.check(**parts, except_for={"examples-stay-apart": ""})


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"modle": nn.Linear(1, 1)}, "did you mean 'model'"),
        ({"model": 3}, "model is a Module or a function that returns one, not a int"),
        ({"model": nn.Linear(1, 1), "loss_fn": 3}, "loss_fn is a function, not a int"),
        (
            {
                "model": gallery.base.Network,
                "optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1),
            },
            "give a function for the optimizer too",
        ),
    ],
)
def test_a_part_that_cannot_be_used_is_refused_at_once(parts, words):
    """The error says what is wrong and what to do."""
    with pytest.raises(TypeError, match=words):
        checks.check(**parts)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_cannot_be_used_is_refused_at_once(device):
    """There is one error at the start instead of one in every check."""
    with pytest.raises(ValueError, match=f"device '{device}' cannot be used here: .*; leave out"):
        checks.check(model=nn.Linear(1, 1), device=device)


def test_a_name_in_frozen_that_the_model_lacks_is_an_error():
    """A misspelt name must not pass for a part that stays frozen."""
    report = checks.check(**gallery.freezing.transfer(frozen=["bakcbone"]))

    assert "'bakcbone'" in report["frozen-parameters-stay"].details
    assert report["frozen-parameters-stay"].status == "error"


def test_failures_can_be_raised():
    """raise_for_failures raises AssertionError with the report as its message."""
    checks.check(model=nn.Linear(1, 1), batch=torch.ones(2, 1)).raise_for_failures()
    report = checks.check(model=gallery.forward.AlwaysDrops(False), batch=torch.randn(8, 4))

    with pytest.raises(AssertionError, match="Dropout that stays on"):
        report.raise_for_failures()


# ------------------------------------------------------------------------ pytest and the shell

PROJECT = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

def softmaxed():
    return dict(
        model=nn.Sequential(net(), nn.Softmax(dim=1)),
        batch=(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3),
        loss_fn=nn.CrossEntropyLoss(),
    )

def batch():
    return torch.randn(8, 4), torch.arange(8) % 3

def broken():
    return 1 / 0

class Raises(nn.Linear):
    def forward(self, x):
        raise RuntimeError("out of order")

def raising():
    return Raises(4, 3)

def words(width):
    return nn.Sequential(nn.Embedding(9, width), nn.Linear(width, 2))

loader = torch.utils.data.DataLoader([(torch.arange(5), 1)] * 4, 2)

number = 3
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop.py").write_text(PROJECT)
    yield tmp_path
    sys.modules.pop("shop", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def test_the_command_passes_what_is_right(shop, capsys):
    """A factory of a model and a shape give exit status 0."""
    assert main(["check", "shop:net", "--batch", "8x4"]) == 0

    printed = capsys.readouterr().out
    assert "passed       examples-stay-apart" in printed
    assert "0 FAILED" not in printed


def test_the_command_fails_what_is_wrong_and_writes_the_reports(shop, capsys):
    """A failure gives exit status 1, the lesson, JSON and JUnit XML."""
    line = ["check", "shop:softmaxed", "--json", "out/report.json", "--junit", "junit.xml"]

    assert main(line) == 1

    printed = capsys.readouterr().out
    assert "FAILED  cross-entropy-is-given-logits: Softmax before cross-entropy" in printed
    report = json.loads((shop / "out" / "report.json").read_text())
    failed = [result["check"] for result in report["results"] if result["status"] == "FAILED"]
    assert (report["ok"], failed) == (False, ["cross-entropy-is-given-logits"])
    suite = ET.parse(shop / "junit.xml").getroot()
    failures = [case.get("name") for case in suite if case.find("failure") is not None]
    assert (suite.get("failures"), failures) == ("1", ["cross-entropy-is-given-logits"])
    assert suite.get("tests") == str(len(checks.REGISTRY)) == str(len(suite))


def test_a_part_that_raises_is_told_once_and_gives_another_status(shop, capsys):
    """Exit status 2 is for a part that could not be used, and its error is printed once."""
    assert main(["check", "shop:raising", "--batch", "8x4"]) == 2

    printed = capsys.readouterr().out
    assert printed.count("RuntimeError: out of order") == 1
    assert "error  model raised RuntimeError: out of order" in printed
    assert "blocks     examples-stay-apart, " in printed


def test_the_command_takes_files_arguments_words_and_loaders(shop, capsys):
    """A file, arguments of the factory, a batch of whole numbers and a loader by name."""
    line = ["check", "shop.py:words", "--arg", "width=6", "--batch", "4x5:int64<9"]

    assert main([*line, "--loader", "shop.py:loader"]) == 0

    assert "passed       examples-stay-apart" in capsys.readouterr().out
    assert main(["check", "shop.py:words", "--arg", "width"]) == 2
    assert "does not have the form NAME=VALUE" in capsys.readouterr().err


def test_the_command_takes_a_batch_and_exceptions_by_name(shop, capsys):
    """--batch can name a function, and --except works like except_for."""
    excepted = "cross-entropy-is-given-logits=a matter of taste"

    assert main(["check", "shop:softmaxed", "--batch", "shop:batch", "--except", excepted]) == 0

    assert "excepted     cross-entropy-is-given-logits: a matter" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("shop", "does not have the form package.module:factory"),
        ("shop:nothing", "shop has no nothing"),
        ("nowhere:net", "nowhere cannot be imported"),
        ("shop:number", "gives a int; it has to be a model"),
        ("shop:broken", "shop:broken() raised ZeroDivisionError"),
        ("shop:net --batch 8xx", "is neither a shape such as 4x3x224x224, or 4x10:int64<100, nor"),
        ("shop:net", "nothing could be checked: give --batch"),
        ("shop:net --batch 8x4 --except examples-stay-apart", "lacks the reason"),
        ("shop:net --batch 8x4 --except nonsense=why", "is no check"),
    ],
)
def test_the_command_explains_what_it_cannot_do(shop, capsys, line, words):
    """A user error gives one sentence and exit status 2, without a traceback."""
    assert main(["check", *line.split()]) == 2

    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.err.count("\n") == 1


def test_each_check_becomes_an_item_of_pytest(pytester):
    """A failing check fails its test; a check that lacks a part skips it with the reason."""
    pytester.makepyfile(shop=PROJECT)
    pytester.makepyfile(
        """
        import shop
        from dlconcepts import checks

        @checks.parametrize(shop.softmaxed, except_for={"examples-stay-apart": "on purpose"})
        def test_by_function(check):
            check()

        @checks.parametrize(model=shop.net(), batch=shop.batch())
        def test_by_parts(check):
            check()
        """
    )

    result = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider")

    counts = result.parseoutcomes()
    assert counts["failed"] == 1
    assert counts["passed"] + counts["skipped"] + 1 == 2 * len(checks.REGISTRY)
    result.stdout.fnmatch_lines(["*excepted: on purpose*"])
    result.stdout.fnmatch_lines(["*not checked: needs train_step or fit*"])
    result.stdout.fnmatch_lines(["*test_by_function?cross-entropy-is-given-logits?*"])


def test_parametrize_refuses_what_check_refuses():
    """A misspelt part or exception is an error when pytest collects the file."""
    with pytest.raises(TypeError, match="did you mean 'model'"):
        checks.parametrize(modle=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="is no check"):
        checks.parametrize(model=nn.Linear(1, 1), except_for={"nonsense": "why"})
