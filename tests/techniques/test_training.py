"""Techniques of training: bad input, edge cases and speed, beyond the claims."""

import copy
import gc
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from dlconcepts import checkpoints, training
from dlconcepts.autograd import ByHand
from dlconcepts.strategies import Problem, problems
from dlconcepts.support.bitwise import bits, state_of
from dlconcepts.support.runs import joined_workers, one_thread
from dlconcepts.training import (
    DivergedError,
    Epoch,
    descent_direction,
    fit,
    train_epoch,
    train_step,
)
from dlconcepts.validation import evaluate
from tests.training.common import Pairs, Recorder, as_examples, as_tensors, assert_close, examples


def test_where_the_gradient_is_zero_no_direction_is_steepest() -> None:
    """At a minimum, a maximum or a saddle the question has no answer."""
    with pytest.raises(ValueError, match="the gradient is zero"):
        descent_direction(lambda x: x[0] ** 2 - x[1] ** 2, torch.zeros(2))


def test_ten_thousand_batches_leave_no_tensor_behind() -> None:
    """There are as many tensors after 10,000 batches as after the first."""
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=0.01)
    counts = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(10_000):
            if number in (1, 9_999):
                counts.append(sum(type(o) is Tensor for o in gc.get_objects()))
            yield torch.ones(1, 1), torch.ones(1, 1)

    train_epoch(model, loader(), F.mse_loss, optimizer)

    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (examples(), {"epochs": 0}, "at least 1 epoch, but epochs is 0$"),
        (examples(), {"epochs": 2, "start_epoch": 2}, "epochs is 2 and 2 are done$"),
        (examples(), {"epochs": 1, "batch_size": 0}, "at least 1 example"),
        (examples(), {"epochs": 1, "accumulate": 0}, "at least 1 piece"),
        (examples(0), {"epochs": 1}, "no examples"),
        ((torch.ones(3, 2), torch.ones(2)), {"epochs": 1}, "3 images but 2 labels"),
        (examples(), {"epochs": 1, "validate": examples(0)}, "no examples"),
        (DataLoader(Pairs(2)), {"epochs": 1, "batch_size": 2}, "leave out batch_size"),
        (
            DataLoader(Pairs(2), sampler=DistributedSampler(Pairs(2), 2, 0)),
            {"epochs": 1},
            "leave out the DistributedSampler",
        ),
        (DataLoader(Pairs(2), batch_size=3, drop_last=True), {"epochs": 1}, "no batch"),
        (
            DataLoader(Pairs(2), collate_fn=lambda _: (torch.ones(2, 2), torch.tensor([0]))),
            {"epochs": 1, "accumulate": 2},
            "a batch has 2 images but 1 labels",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(data: Any, options: dict[str, Any], reason: str) -> None:
    """The error says what is wrong, and the model is as it was, in eval mode if it was."""
    model = nn.Linear(2, 2).eval()
    before = [bits(parameter) for parameter in model.parameters()]

    with pytest.raises(ValueError, match=reason):
        fit(model, data, **options)

    assert [bits(parameter) for parameter in model.parameters()] == before


def test_a_batch_is_computed_in_one_piece_if_nothing_is_said() -> None:
    """Models that look at the batch as a whole, as BatchNorm does, see it whole."""
    computed: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda _module, _inputs, outputs: computed.append(len(outputs)))

    train_step(model, F.cross_entropy, SGD(model.parameters(), lr=0.1), *examples(6))

    assert computed == [6]


def test_a_loss_that_diverges_names_epoch_batch_and_learning_rate() -> None:
    """The error says where it happened, and the weights are those of the step before."""
    model = nn.Linear(2, 2)
    calls = []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        return F.cross_entropy(outputs, labels) * (math.nan if len(calls) == 5 else 1)

    with pytest.raises(DivergedError, match=r"epoch 2, batch 2: the loss is nan .* rate 0\.001"):
        fit(model, examples(), epochs=3, batch_size=2, loss_fn=loss_fn)

    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_ctrl_c_returns_the_epochs_that_are_done() -> None:
    """An interrupted training returns its history, and the model can be used and trained on."""
    model, calls = nn.Linear(2, 2), []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, labels)

    history = fit(model, examples(), epochs=3, batch_size=3, loss_fn=loss_fn)

    assert [record.epoch for record in history] == [1, 2]
    assert len(fit(model, examples(), epochs=1)) == 1


def test_each_epoch_is_reported_with_its_held_out_loss() -> None:
    """The callback gets each record, in order: what `evaluate` says then, and the time it took."""
    model, held_out, records = nn.Linear(2, 2), examples(3), []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        return 2 * F.cross_entropy(outputs, labels)

    def callback(record: Epoch) -> None:
        records.append(record)
        found = evaluate(model, held_out, loss_fn=loss_fn)
        assert (record.held_out_loss, record.held_out_accuracy) == (found.loss, found.accuracy)

    options: dict[str, Any] = {"loss_fn": loss_fn, "validate": held_out, "callback": callback}
    started = time.perf_counter()

    history = fit(model, examples(), epochs=2, **options)

    assert records == history
    assert 0 < sum(record.seconds for record in history) < time.perf_counter() - started


@pytest.mark.parametrize("form", [tuple, lambda data: DataLoader(TensorDataset(*data), 2)])
def test_a_progress_bar_moves_on_with_each_batch(
    monkeypatch: pytest.MonkeyPatch, form: Callable[[Any], Any]
) -> None:
    """It is told how many batches there will be, and after each the epoch and its loss so far."""
    bars: list[tuple[int, bool]] = []
    lines: list[str] = []

    @contextmanager
    def recorded(total: int, shown: bool) -> Iterator[Callable[[str], None]]:
        """Stand in the place of a bar on a terminal."""
        bars.append((total, shown))
        yield lines.append

    monkeypatch.setattr(training, "progress_bar", recorded)
    data = form(examples(5))
    size = None if isinstance(data, DataLoader) else 2

    history = fit(nn.Linear(2, 2), data, epochs=3, start_epoch=1, batch_size=size, progress=True)

    assert bars == [(6, True)]
    assert [line.partition(",")[0] for line in lines] == ["epoch 2"] * 3 + ["epoch 3"] * 3
    ends = [f"epoch {record.epoch}, loss {record.train_loss:.3f}" for record in history]
    assert [lines[2], lines[5]] == ends


def orders(form: Callable[[int, int], object], **options: Any) -> list[list[float]]:
    """Return the order in which two epochs of `fit` show a model a hundred examples."""
    model = Recorder()
    data = as_pair(100, 100) if form is as_pair else form(100, 100)
    fit(model, data, epochs=2, loss_fn=model.loss, optimizer=SGD(model.parameters()), **options)
    return [model.seen[:100], model.seen[100:]]


def as_pair(n: int, batch_size: int) -> object:
    """Return a pair of tensors."""
    return torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n)


@pytest.mark.parametrize("form", [as_pair, as_tensors, as_examples])
def test_each_epoch_has_an_order_of_its_own_that_the_seed_or_the_generator_draws(
    form: Callable[[int, int], object],
) -> None:
    """Without either the seed is 0; a generator goes on from where it stands."""
    first, second = orders(form)

    assert sorted(first) == sorted(second) == list(range(100))
    assert first != sorted(first)
    assert second != first
    assert orders(form, seed=0) == [first, second]
    assert orders(form, generator=torch.Generator().manual_seed(0)) == [first, second]
    assert orders(form, seed=1) != [first, second]
    assert orders(form, generator=torch.Generator().manual_seed(1)) == orders(form, seed=1)


def test_a_tensor_dataset_of_images_and_labels_is_the_pair_of_them() -> None:
    """It is cut by index as the pair is; one of three tensors is no data of `fit`."""
    model, shapes_seen = nn.Linear(3, 2), []
    model.register_forward_pre_hook(lambda model, args: shapes_seen.append(args[0].shape))
    images, labels = torch.ones(2, 3), torch.tensor([0, 1])

    fit(model, TensorDataset(images, labels), epochs=1)

    assert shapes_seen == [(2, 3)]
    assert orders(as_tensors) == orders(as_pair)
    with pytest.raises(ValueError, match="too many values"):
        fit(model, TensorDataset(images, labels, labels), epochs=1)


def batches_seen(examples: int, **options: Any) -> list[int]:
    """Return the sizes of the batches that `fit` gives a model of one parameter."""
    model, sizes = nn.Linear(1, 2), []
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    labels = torch.zeros(examples, dtype=torch.int64)
    fit(model, (torch.ones(examples, 1), labels), epochs=1, **options)
    return sizes


def test_a_batch_has_64_examples_and_comes_in_one_piece_unless_asked_otherwise() -> None:
    """Pieces are cut from batches: they do not run over into the next one."""
    assert batches_seen(130) == [64, 64, 2]
    assert batches_seen(6, batch_size=4) == [4, 2]
    assert batches_seen(6, batch_size=4, accumulate=2) == [2, 2, 1, 1]


def test_an_epoch_counts_from_1_and_takes_whole_batches() -> None:
    """Called by itself, without `fit`."""
    model, sizes = nn.Linear(1, 2), []
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    loader = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))]
    sgd = SGD(model.parameters(), lr=0.1)

    train_epoch(model, loader, F.cross_entropy, sgd)

    assert sizes == [2]
    with pytest.raises(DivergedError, match=r"^epoch 1, batch 1: "):
        train_epoch(model, [(loader[0][0] * math.nan, loader[0][1])], F.cross_entropy, sgd)


def test_no_progress_is_shown_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar is for those who want one."""
    shown: list[bool] = []
    bar = training.progress_bar
    monkeypatch.setattr(
        training, "progress_bar", lambda total, asked: shown.append(asked) or bar(total, False)
    )

    fit(nn.Linear(2, 2), examples(), epochs=1)
    fit(nn.Linear(2, 2), examples(), epochs=1, progress=True)

    assert shown == [False, True]


def test_the_workers_of_a_training_share_each_of_its_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model begins as that of the first worker, and every step gets the group."""
    model, group, started, given = nn.Linear(2, 2), object(), [], []
    monkeypatch.setattr(training, "joined_workers", lambda model: started.append(model) or group)
    monkeypatch.setattr(
        training, "train_step", lambda *batch, **options: given.append(options) or 1.0
    )

    fit(model, examples(), epochs=1, batch_size=2, accumulate=3)

    assert started == [model]
    assert given
    assert all(options == {"accumulate": 3, "workers": group} for options in given)


def test_a_worker_begins_with_the_tensors_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and buffers, once torch.distributed has joined processes, and not before."""
    model, sent = nn.BatchNorm1d(2), []
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda tensor, *, src: sent.append((tensor, src))
    )

    assert joined_workers(model) is None
    assert not sent
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    joined_workers(model)

    tensors_of_it = list(model.state_dict().values())
    assert [src for _, src in sent] == [0] * len(tensors_of_it)
    assert [tensor.data_ptr() for tensor, _ in sent] == [t.data_ptr() for t in tensors_of_it]


def test_bytes_are_normalized_batch_by_batch() -> None:
    """Images of dtype uint8, from any form of data, reach the model as floats from -1 to 1."""
    images, labels = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8), torch.tensor([0, 1])
    for data in ((images, labels), DataLoader(TensorDataset(images, labels), batch_size=2)):
        model = Recorder()

        fit(model, data, epochs=1, loss_fn=model.loss, optimizer=SGD(model.parameters(), lr=0.1))

        torch.testing.assert_close(sorted(model.seen), [-1.0, -0.6, 0.6, 1.0])


@pytest.mark.parametrize(("width", "expected"), [(2, 1), (1001, 2)])
def test_small_models_train_on_one_thread(width: int, expected: int) -> None:
    """A model below a million parameters gets one thread; the caller's number comes back."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with suppress(KeyError), one_thread(nn.Linear(width, width)):
            assert torch.get_num_threads() == expected
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@settings(max_examples=25)  # each example trains two networks
@given(problem=problems(), accumulate=st.integers(1, 3))
def test_the_fast_route_is_the_same_training(problem: Problem, accumulate: int) -> None:
    """A chain of layers differentiated by hand is trained as the layers are, to the same end."""
    twin = copy.deepcopy(problem.model)
    data = problem.inputs, problem.labels
    options: dict[str, Any] = {"epochs": 1, "batch_size": 3, "accumulate": accumulate}
    by_hand = ByHand(twin)

    slow = fit(problem.model, data, optimizer=SGD(problem.model.parameters(), lr=0.1), **options)
    fast = fit(by_hand, data, optimizer=SGD(by_hand.parameters(), lr=0.1), **options)

    for parameter, other in zip(problem.model.parameters(), twin.parameters(), strict=True):
        assert_close(parameter, other, "both routes lead to the same weights", rtol=1e-4)
    for record, other_record in zip(slow, fast, strict=True):
        assert math.isclose(record.train_loss, other_record.train_loss, rel_tol=1e-4)


def test_the_state_of_a_model_is_that_of_its_training() -> None:
    """A trained model is left in training mode, with nothing frozen that was free."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()

    fit(model, examples(), epochs=1)

    assert state_of(model)["1: training"] is True


def test_two_processes_of_torchrun_train_as_one_does(tmp_path: Path) -> None:
    """The command under torchrun prints once, writes once, and ends with the same weights."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = ["train", "--epochs=1", "--batch-size=999", "--hidden", "8", "--dropout=0", "--out"]
    outputs = []
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, "-m", "dlconcepts", *options, str(tmp_path / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        finished = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        outputs.append([line for line in finished.stdout.splitlines() if "seconds" not in line])

    one, two = (
        checkpoints.load(tmp_path / name / "checkpoint.pt").model.state_dict()
        for name in ("one", "two")
    )
    for name, value in one.items():
        # The sums have another order, and Adam divides by the root of tiny squares.
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)
    assert [line.replace("/two/", "/one/") for line in outputs[1]] == outputs[0]
