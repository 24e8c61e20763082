"""Count the mistakes that the checks and their peers name, and check torchvision's models.

    pip install -e ".[bench]"
    python benchmarks/checks.py                 # the gallery of tests/, with every peer
    python benchmarks/checks.py --torchvision   # every classification model, in both modes

Each peer gets a new copy of each project of the gallery, with all the parts that it can use. A peer
notices a mistake if something fails that does not fail on the control. It names the mistake if the
failure says so: a peer's message needs one of the words below, which are chosen in its favour. A
complaint is a failure on a control, or on another correct project. Seconds are those of one process
with one thread. The book shows what `--json` recorded in docs/results/benchmarks: checks.json, and
torchvision.json for the sweep, which takes hours.
"""

import argparse
import gc
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import write
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torchvision import models

from dlconcepts import checks

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the gallery, which nobody installs
from tests import gallery
from tests.watch import scripts

Parts = dict[str, Any]
VERSIONS = ("torch", "torchvision")  # recorded with the sweep
Peer = Callable[[Parts], Iterator[str]]

# A peer names the cause of a mistake if its message matches this pattern.
CAUSES = {
    "examples-stay-apart": r"batch|independen|other (example|sample)s",
    "softmax-is-over-the-classes": r"sum|probabilit|batch|softmax",
    "inputs-are-left-alone": r"in.?place|input.*(modif|mutat|chang)|mutat",
    "eval-mode-leaves-nothing-to-chance": r"determin|dropout|random|eval",
    "the-model-moves-as-a-whole": r"device",
    "cross-entropy-is-given-logits": r"softmax|sigmoid|logit|probabilit",
    "nll-is-given-log-probabilities": r"log|probabilit|negative",
    "scores-are-not-cut-at-zero": r"relu|negative|zero",
    "the-loss-pairs-outputs-with-targets": r"broadcast|shape",
    "every-term-of-the-loss-has-a-gradient": r"grad|detach|argmax",
    "every-layer-is-registered": r"regist|paramet.*list|ModuleList|device",
    "every-parameter-gets-a-gradient": r"grad|never",
    "the-optimizer-holds-the-model": r"optimi[sz]er",
    "a-step-follows-its-own-batch": r"zero_grad|accumul|stale",
    "a-step-follows-the-gradient": r"chang|updat|learn|mov|decrease",
    "the-loss-is-kept-as-a-number": r"graph|memory|leak",
    "a-seed-repeats-the-run": r"seed|determin|reproduc|rng|random",
    "frozen-parameters-stay": r"frozen|chang|mov",
    "frozen-statistics-stay": r"buffer|running|statistic|batch.?norm",
    "validation-is-in-eval-mode": r"eval|mode|dropout",
    "the-mode-is-restored": r"mode|train",
    "validation-records-no-gradients": r"grad",
    "validation-changes-nothing": r"buffer|running|chang",
    "every-example-counts-once": r"mean|batch|weight",
    "accuracy-counts-each-example": r"broadcast|shape|accuracy",
    "a-checkpoint-holds-the-model": r"buffer|missing|checkpoint|running",
    "a-checkpoint-holds-the-optimizer": r"optimi[sz]er",
    "a-partial-checkpoint-is-refused": r"missing|partial|strict|key",
    "kept-weights-are-a-copy": r"memory|copy|reference|share",
    "labels-stay-with-their-inputs": r"label|shuffl",
    "data-is-the-same-when-read-again": r"data|read|epoch",
    "shared-memory-is-not-written-to": r"memory|in.?place|mutat|modif",
    "workers-draw-their-own-numbers": r"worker|seed|random",
    "validation-data-is-left-to-no-chance": r"augment|random|data",
    "data-is-normalised-once": r"normali[sz]|range|scale",
}


def ours(parts: Parts) -> Iterator[str]:
    """Run every check, and yield each failure after the name of its check."""
    for result in checks.check(**parts).failed:
        yield f"{result.check}: {result.details}"


def optimizer_of(parts: Parts) -> torch.optim.Optimizer:
    given = parts.get("optimizer")
    if given is None:
        return torch.optim.SGD(parts["model"].parameters(), lr=0.01)
    return given if isinstance(given, torch.optim.Optimizer) else given(parts["model"])


def loss_of(parts: Parts) -> Callable[[Any], Tensor]:
    """Return the loss as a function of the outputs only."""
    _, targets = parts["batch"]
    return lambda outputs: parts["loss_fn"](outputs, targets)


def attempt(*trials: Callable[[], object]) -> Iterator[str]:
    """Run each trial and yield the message of each that raises."""
    for trial in trials:
        try:
            trial()
        except Exception as error:  # a peer may complain by any exception
            yield f"{type(error).__name__}: {error}"


def pytest_torch(parts: Parts) -> Iterator[str]:
    """Run its inference contract and its other assertions on training and checkpoints."""
    import pytest_torch as peer

    model, (inputs, targets) = parts["model"], parts["batch"]
    loss, optimizer = loss_of(parts), optimizer_of(parts)
    step, loss_fn = parts.get("train_step"), parts.get("loss_fn")
    still = [name for name, p in model.named_parameters() if not p.requires_grad]
    frozen = parts.get("frozen") or sorted({name.rpartition(".")[0] for name in still})

    report = peer.check_inference_contract(model.eval(), inputs, raise_on_failure=False)
    yield from (f"{r.name}: {r.message} {r.hint}" for r in report.failures)
    yield from attempt(
        lambda: peer.assert_deterministic(model.eval(), inputs),
        lambda: peer.assert_batch_invariant(model.eval(), inputs),
        lambda: peer.assert_optimizer_coverage(model, optimizer),
    )
    if loss_fn is None:
        return

    def predicts_probabilities() -> None:
        found = parts["predict"](model, inputs)
        if isinstance(targets, Tensor) and not targets.is_floating_point():
            spec = peer.Probabilities(("B", found.shape[1]))
            peer.assert_output_spec(found, spec, B=len(targets))

    def stays_frozen() -> None:
        names = [f"{part}*" for part in frozen]
        if names:
            peer.assert_frozen(
                model.train(), inputs, loss, names, optimizer=lambda _: optimizer, steps=2
            )

    def overfits() -> None:
        if not frozen:  # a head on random features may be unable to
            peer.assert_overfits_one_batch(model.eval(), inputs, loss, steps=300)

    def make_setup() -> Any:
        again = parts["make"]()
        return peer.TrainingSetup(again["model"], optimizer_of(again))

    def take(setup: Any, batch: Any) -> Any:
        result = step(setup.model, loss_fn, setup.optimizer, *batch)
        return result if isinstance(result, Tensor) else torch.tensor(float(result))

    def trains() -> None:
        run = peer.run_training(make_setup, [parts["batch"]], take, steps=9)
        run.assert_healthy(every=3)  # the gallery's accumulation steps in every third call

    def resumes() -> None:
        if parts.get("save") and parts.get("load"):
            peer.assert_resume_equivalent(
                make_setup,
                [parts["batch"]],
                take,
                steps=4,
                save=save,
                load=load,
            )

    # A project need not save the random state, but the peer expects it.
    def save(setup: Any, path: Path) -> None:
        parts["save"](setup.model, setup.optimizer, path)
        torch.save(torch.get_rng_state(), path.with_suffix(".random"))

    def load(setup: Any, path: Path) -> None:
        parts["load"](setup.model, setup.optimizer, path)
        torch.set_rng_state(torch.load(path.with_suffix(".random")))

    yield from attempt(
        lambda: peer.assert_gradients_finite(model.train(), inputs, loss),
        lambda: peer.assert_all_params_receive_grad(model.train(), inputs, loss),
        stays_frozen,
        lambda: peer.assert_loss_decreases(model.train(), inputs, loss, lr=1e-2),
        overfits,
        lambda: peer.assert_checkpoint_roundtrip(lambda: parts["make"]()["model"], inputs),
    )
    if parts.get("predict"):
        yield from attempt(predicts_probabilities)
    if step:
        yield from attempt(trains, resumes)


def torchtest2(parts: Parts) -> Iterator[str]:
    """Make its only call, with every part that it takes."""
    import torchtest2 as peer

    inputs, targets = parts["batch"]
    report = peer.check_model(
        parts["model"],
        inputs,
        targets,
        loss_fn=parts.get("loss_fn"),
        optimizer=optimizer_of(parts),
        frozen=parts.get("frozen") or (),
    )
    for result in report.failures:
        yield f"{result.name}: {result.message}"


def torcheck(parts: Parts) -> Iterator[str]:
    """Watch parameters and outputs during two training steps."""
    from torcheck.registry import Registry

    model, optimizer = parts["model"], optimizer_of(parts)
    frozen = parts.get("frozen") or []

    def train() -> None:
        registry = Registry()
        registry.register(optimizer)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            if id(parameter) not in held and not parameter.requires_grad:
                continue
            still = not parameter.requires_grad or name.startswith(tuple(frozen) or ("?",))
            registry.add_tensor(parameter, name, changing=not still, check_nan=True, check_inf=True)
        if held >= {id(p) for p in model.parameters()}:
            registry.add_module(model, check_nan=True, check_inf=True)
        for _ in range(2):
            if parts.get("train_step"):
                parts["train_step"](model, parts["loss_fn"], optimizer, *parts["batch"])
            else:
                optimizer.zero_grad()
                parts["loss_fn"](model(parts["batch"][0]), parts["batch"][1]).backward()
                optimizer.step()

    yield from attempt(train)


def torchtest(parts: Parts) -> Iterator[str]:
    """Run its suite: which parameters change, and whether outputs are finite."""
    from torchtest import torchtest as peer

    model, optimizer = parts["model"], optimizer_of(parts)
    still = tuple(parts.get("frozen") or ())
    frozen = [
        (name, p)
        for name, p in model.named_parameters()
        if not p.requires_grad or (still and name.startswith(still))
    ]
    trained = [(n, p) for n, p in model.named_parameters() if n not in dict(frozen)]

    yield from attempt(
        lambda: peer.test_suite(
            model,
            parts["loss_fn"],
            optimizer,
            parts["batch"],
            train_vars=trained,
            non_train_vars=frozen or None,
            test_nan_vals=True,
            test_inf_vals=True,
        )
    )


PEERS: dict[str, tuple[str, Peer]] = {
    "dlconcepts.checks": ("", ours),
    "pytest-torch": ("pytest_torch", pytest_torch),
    "torchtest2": ("torchtest2", torchtest2),
    "torcheck": ("torcheck", torcheck),
    "torchtest": ("torchtest", torchtest),
}


def complaints(peer: Peer, make: Callable[[], Parts]) -> list[str]:
    """Return what a peer says about a project, or the error that it raises."""
    parts = make()
    if peer is not ours:
        # The peers take no factory, and look only at models.
        parts |= {"make": make}
        if "model" not in parts:
            return []
        if not isinstance(parts["model"], nn.Module):
            parts["model"] = parts["model"]()
    try:
        return list(peer(parts))
    except Exception as error:  # the peer cannot handle such a project
        return [f"{type(error).__name__}: {error}"]
    finally:
        torch.set_grad_enabled(True)


def news(said: list[str], control: list[str]) -> list[str]:
    """Return the messages that the control does not give too, apart from numbers."""
    known = {re.sub(r"[\d.e+-]+", "", text) for text in control}
    return [text for text in said if re.sub(r"[\d.e+-]+", "", text) not in known]


def is_named(peer: Peer, mistake: gallery.Mistake, said: list[str]) -> bool:
    if peer is ours:
        return any(text.startswith(f"{mistake.check}: ") and mistake.says in text for text in said)
    return any(re.search(CAUSES[mistake.check], text, re.IGNORECASE) for text in said)


def compare(names: list[str], only: list[str], file: Path | None) -> None:
    """Run each peer over the gallery and print the tables."""
    # Other checkers take batches that are pairs.
    mistakes = [m for m in scripts.mistakes() if not only or m.name in only]
    controls = {m.right.__name__: m.right for m in mistakes} if only else scripts.controls()
    console, counts, skipped = Console(width=100), [], []
    of_mistake = {m.name: {"mistake": m.name} for m in mistakes}
    of_control = {control: {"correct project": control} for control in controls}
    for name in names:
        module, peer = PEERS[name]
        try:
            if module:
                __import__(module)
        except ImportError as error:
            skipped.append(f"{name} is skipped: {error}")
            continue
        complaints(
            peer, gallery.CORRECT["a_model_and_a_batch_alone"]
        )  # so that imports do not count
        started = time.perf_counter()
        said = {mistake.name: complaints(peer, mistake.wrong) for mistake in mistakes}
        blamed = {control: complaints(peer, make) for control, make in controls.items()}
        seconds = time.perf_counter() - started
        for m in mistakes:
            new = news(said[m.name], blamed[m.right.__name__])
            of_mistake[m.name][name] = (
                "named" if is_named(peer, m, new) else "noticed" if new else "missed"
            )
        for control, texts in blamed.items():
            of_control[control][name] = "complains" if texts else "silent"
        verdicts = [row[name] for row in of_mistake.values()]
        counts.append(
            {
                "peer": name,
                "named": verdicts.count("named"),
                "noticed": len(verdicts) - verdicts.count("missed"),
                "complaints": sum(bool(texts) for texts in blamed.values()),
                "seconds": round(seconds, 1),
            }
        )
    title = f"{len(mistakes)} mistakes, {len(controls)} controls and correct projects"
    print_rows(console, counts, title)
    print_rows(console, list(of_mistake.values()), "what each peer says about the mistakes")
    complained = [row for row in of_control.values() if "complains" in row.values()]
    print_rows(console, complained, "correct projects that a peer complains about")
    for reason in skipped:
        console.print(reason)
    if file:
        known = [module for module, _ in PEERS.values() if module]
        versions = ["torch", *(name.replace("_", "-") for name in known if find_spec(name))]
        parts = {"peers": counts, "correct projects": list(of_control.values())}
        write(file, list(of_mistake.values()), versions, compared=title, **parts)


def print_rows(console: Console, rows: list[dict[str, Any]], title: str) -> None:
    table = Table(*(rows[0] if rows else ()), title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    if rows:
        console.print(table)


def of_all_outputs(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy, with that of auxiliary classifiers, which some models train."""
    parts = [outputs] if isinstance(outputs, Tensor) else [x for x in outputs if x is not None]
    return torch.stack([F.cross_entropy(part, targets) for part in parts]).sum()


def size_of(name: str) -> int:
    """Return the smallest input size for which torchvision has weights of the model."""
    return min(weights.transforms().crop_size[0] for weights in models.get_model_weights(name))


def operations_of(name: str) -> float:
    """Return how many billion operations a model needs for one image."""
    return min(float(weights.meta["_ops"]) for weights in models.get_model_weights(name))


def sweep(names: list[str], largest: int, file: Path | None) -> None:
    """Check every classification model of torchvision, in both modes, and print the results.

    The smallest models come first. Models that the file has for the same versions are skipped,
    since the whole sweep takes hours.
    """
    console = Console(width=100)
    rows: list[dict[str, Any]] = []
    if file and file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["versions"] == {name: version(name) for name in VERSIONS}:
            rows = found["rows"]
    left_out, done = [], {row["model"] for row in rows}
    wanted = sorted(names or models.list_models(module=models), key=operations_of)
    for name in [name for name in wanted if name not in done]:
        settings = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, **settings)
        parameters = sum(p.numel() for p in model.parameters())
        if parameters > largest * 1_000_000:
            left_out.append(name)
            continue
        size, clock = size_of(name), time.perf_counter()
        batch = torch.randn(2, 3, size, size), torch.tensor([1, 7])
        said, passes, checked = [], 0, set()
        for training in (True, False):
            report = checks.check(model=model.train(training), batch=batch, loss_fn=of_all_outputs)
            said += [f"{result.check}: {result.details}" for result in report.failed]
            checked |= {result.check for result in report.results if result.status == "passed"}
            passes += report.passes
        rows.append(
            {
                "model": name,
                "size": size,
                "million parameters": round(parameters / 1e6, 1),
                "checks": len(checked),
                "passes": passes,
                "complaints": len(said),
                "seconds": round(time.perf_counter() - clock, 1),
            }
        )
        console.print(*rows[-1].values(), *said, highlight=False)
        if file:
            write(file, rows, VERSIONS, swept=summary(rows), left_out=left_out)
        del model, report
        gc.collect()
    print_rows(console, rows, "torchvision's models")
    console.print(summary(rows))
    if left_out:
        console.print(f"left out, above {largest} million parameters: {', '.join(left_out)}")


def summary(rows: list[dict[str, Any]]) -> str:
    bad = sum(bool(row["complaints"]) for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    return (
        f"{len(rows)} models in training and in eval mode, complaints about {bad}, {seconds:.0f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--mistakes", nargs="+", default=[], help="only these mistakes")
    parser.add_argument(
        "--torchvision", action="store_true", help="run the sweep instead of the gallery"
    )
    parser.add_argument("--models", nargs="+", default=[], help="only these models of the sweep")
    parser.add_argument(
        "--largest",
        type=int,
        default=1000,
        help="skip models above this many million parameters (%(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, help="threads (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # peers and models warn about their own choices
    torch.set_num_threads(options.threads)
    if options.torchvision:
        sweep(options.models, options.largest, options.json)
    else:
        compare(options.peers, options.mistakes, options.json)


if __name__ == "__main__":
    main()
