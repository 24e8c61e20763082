"""The claim mark, the devices and the Hypothesis profiles: what every law stands on.

A law is a test over a subject, marked with the claim of tests/claims.toml that it proves:

    @claim("tensors.from-numpy", right=from_numpy, wrong={through_list: "loses the dtype"})
    @given(array=arrays())
    def test_values_shape_and_dtype_are_kept(from_numpy, array): ...

It runs with `right` on every chosen device and must pass. It runs with each mistake in `wrong`
and must fail, by an assertion whose message says the stated reason. `share` (with `because`)
lowers the number of examples of a law that is expensive, `cpu_only` says why a law applies to the
CPU alone: it runs there whatever devices are chosen, so that each run judges whole claims.
Everything that happened is recorded in the JUnit XML properties of the item.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.internal.conjecture.engine
import pytest
import torch
from hypothesis import HealthCheck, Phase, register_random, settings

from dlconcepts.devices import DEVICES, WORKSPACE, DeviceUnavailableError, find_device

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEDGER = Path(__file__).parent / "tests" / "claims.toml"
SHRINKING_SECONDS = 2
MISTAKE_EXAMPLES = 1_000
FAILURES = (Exception, pytest.fail.Exception)  # the second is what pytest.raises fails with

quick = tuple(phase for phase in Phase if phase is not Phase.explain)
common = settings(
    deadline=None,  # the first use of an operator may compile or import for seconds
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("dev", common, max_examples=25, phases=quick)
settings.register_profile(
    "ci", common, max_examples=100, phases=quick, derandomize=True, database=None
)
settings.register_profile("thorough", common, max_examples=10_000, phases=quick)
settings.register_profile(
    "book", common, max_examples=100, phases=tuple(Phase), derandomize=True, database=None
)
# Whether a law fails, and no more: what benchmarks/power.py and `tox -e mutants` ask of it.
settings.register_profile(
    "power",
    common,
    max_examples=100,
    phases=[Phase.explicit, Phase.generate],
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A documented knob of Hypothesis: shrinking a mistake must not take minutes.
hypothesis.internal.conjecture.engine.MAX_SHRINKING_SECONDS = SHRINKING_SECONDS

# cuBLAS reads it once, when CUDA starts; laws of determinism need it.
os.environ.setdefault(WORKSPACE, ":4096:8")

# Hypothesis follows each example it draws by up to five that repeat parts of it, so that of 100
# few are draws of their own: of the 20 combinations of settings for SGD that a law allows it met 8
# and, with every example drawn, 19. Our strategies draw ties and equal values themselves.
setattr(  # noqa: B010
    hypothesis.internal.conjecture.engine.ConjectureRunner,
    "generate_mutations_from",
    lambda runner, data: None,
)

# Laws work on tensors too small for a second thread, and pytest-xdist's workers would fight for
# the cores.
torch.set_num_threads(1)


class TorchRandom:
    """torch's global generators in the form in which Hypothesis seeds and restores generators.

    `modules` are those of the devices on which laws run: each has a generator of its own, and a
    counterexample that drew from one that nobody seeds is not found again.
    """

    def __init__(self) -> None:
        """Begin with the CPU's generator."""
        self.modules: list[Any] = []

    def seed(self, seed: int) -> None:
        """Seed every generator."""
        torch.default_generator.manual_seed(seed)
        for module in self.modules:
            module.manual_seed(seed)

    def getstate(self) -> list[torch.Tensor]:
        """Return the state of every generator."""
        states = [module.get_rng_state() for module in self.modules]
        return [torch.default_generator.get_state(), *states]

    def setstate(self, states: list[torch.Tensor]) -> None:
        """Put every generator back."""
        torch.default_generator.set_state(states[0])
        for module, state in zip(self.modules, states[1:], strict=True):
            module.set_rng_state(state)


torch_random = TorchRandom()  # Hypothesis holds generators weakly: this name keeps it alive
register_random(torch_random)


@dataclass(frozen=True)
class Claim:
    """The arguments of the claim mark."""

    id: str
    right: Callable[..., Any]
    wrong: Mapping[Callable[..., Any], str] = field(default_factory=dict)
    share: float = 1.0
    because: str = ""
    cpu_only: str = ""

    def __post_init__(self) -> None:
        """Refuse a law that runs fewer examples without saying why."""
        if self.share != 1 and not self.because:
            raise ValueError(f"share={self.share} lowers the examples: say why in because=")


@dataclass
class Case:
    """One run of a law: with the right subject (no reason to fail) or with a mistake."""

    claim: Claim
    subject: Callable[..., Any]
    device: torch.device
    reason: str | None = None
    examples: int = 0

    @property
    def name(self) -> str:
        """Name of the subject."""
        return getattr(self.subject, "__name__", None) or type(self.subject).__name__

    def settings(self) -> settings:
        """How Hypothesis runs the case: as the profile says, with what the case changes in it."""
        profile = settings.get_current_profile_name()
        asked = settings.get_profile(profile)
        if self.reason is None:
            return settings(
                asked, max_examples=max(1, round(asked.max_examples * self.claim.share))
            )
        # The search for a counterexample ends with the first one, so many examples cost nothing;
        # derandomized, since a mistake that is found by luck is not proven to be found.
        return settings(
            asked,
            max_examples=max(MISTAKE_EXAMPLES, asked.max_examples),
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
        )

    def judge(self, failure: BaseException | None, asked: int, stopped: str) -> None:
        """Raise unless the right subject passed, or the mistake failed for the stated reason."""
        __tracebackhide__ = True
        if self.reason is None:
            if failure is not None:
                raise failure
            if self.examples < asked and "nothing left to do" not in stopped:
                pytest.fail(f"too few examples: {self.examples} of {asked} ran. {stopped}")
        elif failure is None:
            pytest.fail(f"vacuous: {self.name} is a mistake, yet {self.examples} examples pass")
        elif not isinstance(failure, (AssertionError, pytest.fail.Exception)):
            raise failure
        elif self.reason not in str(failure):
            text = f"the mistake {self.name} fails for another reason than {self.reason!r}"
            raise pytest.fail.Exception(f"{text}: {failure}") from failure


CHOSEN = pytest.StashKey[list[torch.device]]()
VERDICTS = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --device."""
    parser.addoption(
        "--device",
        action="append",
        choices=[*DEVICES, "all"],
        help="device to run the laws on; may be given more than once (default: cpu)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Find the devices that were asked for: one that is not there ends the run (exit status 4)."""
    config.addinivalue_line("markers", "claim(id, right, wrong): the claim that a law proves")
    config.addinivalue_line("markers", "case(case): one run of a law, made by the claim mark")
    names = config.getoption("--device") or ["cpu"]
    try:
        chosen = {name: find_device(name) for name in names if name != "all"}
    except DeviceUnavailableError as error:
        raise pytest.UsageError(str(error)) from None
    if "all" in names:
        for name in DEVICES:
            with suppress(DeviceUnavailableError):
                chosen[name] = find_device(name)
    config.stash[CHOSEN] = list(chosen.values())
    modules = [getattr(torch, name, None) for name in chosen if name != "cpu"]
    torch_random.modules = [module for module in modules if module]  # "meta" has none, nor numbers
    ledger = tomllib.loads(LEDGER.read_text(encoding="utf-8"))
    config.stash[VERDICTS] = {claim["id"]: claim["verdict"] for claim in ledger["claim"]}


@pytest.fixture(scope="session", autouse=True)
def first_optimizer() -> None:
    """Pay once, outside the laws, for the second that the first optimizer takes to import."""
    importlib.import_module("torch._dynamo")


@pytest.fixture(scope="session", autouse=True)
def hardware(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Record torch and the hardware behind each device, so that results can be kept."""
    record_testsuite_property("torch", str(torch.__version__))
    for device in request.config.stash[CHOSEN]:
        module = getattr(torch, device.type, None)
        describe = getattr(module, "get_device_name", platform.machine)
        record_testsuite_property(str(device), describe())


def pytest_report_header(config: pytest.Config) -> str:
    """Name the devices, the torch version and the profile above every run."""
    devices = ", ".join(str(device) for device in config.stash[CHOSEN])
    return f"torch {torch.__version__} on {devices}, profile {settings.get_current_profile_name()}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one item of a law for each device, and one for each mistake."""
    mark = metafunc.definition.get_closest_marker("claim")
    if mark is None:
        return
    law = metafunc.function
    try:
        claim = Claim(*mark.args, **mark.kwargs)
        verdict = metafunc.config.stash[VERDICTS].get(claim.id)
        if verdict is None or verdict == "opinion":
            why = "is an opinion, which has no law" if verdict else f"is not in {LEDGER.name}"
            raise ValueError(f"{claim.id} {why}")
        if not hasattr(law, "hypothesis"):
            raise ValueError("a law is tested on generated inputs: it needs @given")
    except (TypeError, ValueError) as error:
        raise pytest.Collector.CollectError(f"{law.__name__}: {error}") from error
    devices = metafunc.config.stash[CHOSEN]
    if claim.cpu_only:
        devices = [torch.device("cpu")]
    cases = [Case(claim, claim.right, device) for device in devices]
    cases += [Case(claim, wrong, devices[0], reason) for wrong, reason in claim.wrong.items()]
    metafunc.parametrize(
        next(iter(inspect.signature(law).parameters)),
        [
            pytest.param(
                case.subject,
                id=f"{'wrong' if case.reason else case.device}-{case.name}",
                marks=[pytest.mark.case(case)],
            )
            for case in cases
        ],
    )


@contextmanager
def running(law: Any, case: Case, asked: settings) -> Generator[None]:
    """Run a law under the settings of a case, counting the examples that reach its end."""
    inner, before = law.hypothesis.inner_test, law._hypothesis_internal_use_settings

    @functools.wraps(inner)
    def counted(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        case.examples += 1

    law.hypothesis.inner_test, law._hypothesis_internal_use_settings = counted, asked
    # torch.device as a context makes it the default of every factory function. That costs a
    # Python call for each operator, which the CPU need not pay.
    with nullcontext() if case.device.type == "cpu" else case.device:
        try:
            yield
        finally:
            law.hypothesis.inner_test, law._hypothesis_internal_use_settings = inner, before


def case_of(item: pytest.Item) -> Case | None:
    """Return the case of a law that an item runs."""
    mark = item.get_closest_marker("case")
    return mark.args[0] if mark else None


def pytest_itemcollected(item: pytest.Item) -> None:
    """Record what is known of a case before it runs, so that a skipped one is recorded too."""
    case = case_of(item)
    if case is not None:
        record = {
            "claim": case.claim.id,
            "verdict": item.config.stash[VERDICTS][case.claim.id],
            "kind": "wrong" if case.reason else "right",
            "subject": case.name,
            "reason": case.reason or case.claim.because,
            "device": str(case.device),
            "cpu_only": case.claim.cpu_only,
            "torch": str(torch.__version__),  # a str that execnet can send
        }
        item.user_properties.extend(record.items())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run a case of a law, judge its outcome and record what happened."""
    __tracebackhide__ = True
    case = case_of(item)
    if case is None or not isinstance(item, pytest.Function):
        return (yield)
    asked = case.settings()
    outcome: object = None
    failure: BaseException | None = None
    started = time.perf_counter()
    with running(item.obj, case, asked):
        try:
            outcome = yield
        except FAILURES as error:
            failure = error
    record = {
        "examples": case.examples,
        "counterexample": "\n".join(getattr(failure, "__notes__", [])),
        "seconds": f"{time.perf_counter() - started:.3f}",
    }
    item.user_properties.extend(record.items())
    case.judge(failure, asked.max_examples, getattr(item, "hypothesis_statistics", ""))
    return outcome
