"""The techniques of lesson 4, training, beyond the claims: bad input, edge cases, many batches."""

import copy
import gc
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
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
from dlconcepts.cli import main
from dlconcepts.strategies import Problem, problems
from dlconcepts.support.bitwise import bits
from dlconcepts.support.runs import joined_workers, one_thread
from dlconcepts.training import (
    DivergedError,
    Epoch,
    fit,
    train_epoch,
    train_step,
)
from dlconcepts.validation import evaluate
from tests.training.common import (
    Pairs,
    Recorder,
    as_examples,
    as_pair,
    as_tensors,
    assert_close,
)


def examples(n: int = 6) -> tuple[Tensor, Tensor]:
    return torch.arange(2.0 * n).reshape(n, 2), torch.arange(n) % 2


def test_ten_thousand_batches_leave_no_tensor_behind() -> None:
    """After 10,000 batches as many tensors are alive as after the first."""
    model = nn.Linear(1, 1)
    optimizer = SGD(model.parameters(), lr=0.01)
    counts = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(10_000):
            if number in (1, 9_999):  # after the first step, which makes the gradients
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
        (examples(), {"epochs": 1, "accumulate": 0}, "accumulate must be at least 1, but it is 0"),
        (examples(0), {"epochs": 1}, "no examples"),
        ((torch.ones(3, 2), torch.ones(2)), {"epochs": 1}, "3 images but 2 labels"),
        (examples(), {"epochs": 1, "validate": examples(0)}, "no examples"),
        (DataLoader(Pairs(2)), {"epochs": 1, "batch_size": 2}, "do not pass batch_size"),
        (
            DataLoader(Pairs(2), sampler=DistributedSampler(Pairs(2), 2, 0)),
            {"epochs": 1},
            "remove the DistributedSampler",
        ),
        (DataLoader(Pairs(2), batch_size=3, drop_last=True), {"epochs": 1}, "no batch"),
        (
            DataLoader(Pairs(2), collate_fn=lambda _: (torch.ones(2, 2), torch.tensor([0]))),
            {"epochs": 1, "accumulate": 2},
            "a batch has 2 images but 1 labels",
        ),
    ],
)
def test_bad_input_is_refused(data: Any, options: dict[str, Any], reason: str) -> None:
    """`fit` raises ValueError that says what is wrong, and the parameters do not change."""
    model = nn.Linear(2, 2).eval()
    before = [bits(parameter) for parameter in model.parameters()]

    with pytest.raises(ValueError, match=reason):
        fit(model, data, **options)

    assert [bits(parameter) for parameter in model.parameters()] == before


PADDED, WEIGHT = torch.tensor([0, -100, -100, 2, 1]), torch.tensor([1.0, 5.0, 0.0])


class CountsLabels(nn.Module):
    """A loss whose ignore_index says nothing about its mean, since it has no reduction."""

    ignore_index = 0

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)


@pytest.mark.parametrize(
    ("loss_fn", "labels"),
    [
        (F.cross_entropy, PADDED),
        (nn.CrossEntropyLoss(), PADDED),
        (nn.CrossEntropyLoss(WEIGHT), torch.rand(5, 3)),  # a probability for each class
        (nn.NLLLoss(WEIGHT), PADDED),
        (partial(F.cross_entropy, weight=WEIGHT, label_smoothing=0.1), PADDED),
        (CountsLabels(), torch.arange(5) % 3),
        (nn.MSELoss(), torch.rand(5, 3)),
        (nn.BCEWithLogitsLoss(WEIGHT), torch.rand(5, 3)),  # this weight does not enter the divisor
        (lambda outputs, labels: F.l1_loss(outputs, labels), torch.rand(5, 3)),
    ],
)
def test_a_batch_in_pieces_has_the_loss_and_the_step_of_the_whole(
    loss_fn: Callable[[Tensor, Tensor], Tensor], labels: Tensor
) -> None:
    """Losses with padded labels, class weights or probabilities give one step, however cut."""
    found = []
    for accumulate in (1, 2, 5):
        torch.manual_seed(0)
        model = nn.Linear(2, 3)
        sgd = SGD(model.parameters(), lr=0.5)
        loss = train_step(model, loss_fn, sgd, examples(5)[0], labels, accumulate=accumulate)
        found.append(torch.cat([torch.tensor([loss]), *map(torch.flatten, model.parameters())]))

    for cut in found[1:]:
        torch.testing.assert_close(cut, found[0])


def test_a_loss_that_is_a_sum_is_refused() -> None:
    """A sum has no mean per example, so `fit` raises ValueError before any step."""
    with pytest.raises(ValueError, match="must be a mean over the batch, but CrossEntropyLoss"):
        fit(nn.Linear(2, 2), examples(), epochs=1, loss_fn=nn.CrossEntropyLoss(reduction="sum"))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_of_which_no_label_counts_is_refused(accumulate: int) -> None:
    """Its mean loss is NaN, whether or not it comes in pieces."""
    model, labels = nn.Linear(2, 2), torch.full((6,), -100)
    sgd = SGD(model.parameters(), lr=0.1)

    with pytest.raises(DivergedError, match="the loss is nan"):
        train_step(model, F.cross_entropy, sgd, examples()[0], labels, accumulate=accumulate)


def test_a_batch_is_computed_in_one_piece_by_default() -> None:
    """A layer that looks at all examples together, as BatchNorm does, sees the whole batch."""
    computed: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda _module, _inputs, outputs: computed.append(len(outputs)))

    train_step(model, F.cross_entropy, SGD(model.parameters(), lr=0.1), *examples(6))

    assert computed == [6]


def test_a_loss_that_diverges_names_epoch_batch_and_learning_rate() -> None:
    """The error says where the loss diverged, and the weights are still finite."""
    model = nn.Linear(2, 2)
    calls = []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        # Three batches an epoch: the fifth is the second of epoch 2.
        return F.cross_entropy(outputs, labels) * (math.nan if len(calls) == 5 else 1)

    with pytest.raises(DivergedError, match=r"epoch 2, batch 2: the loss is nan .* rate 0\.001"):
        fit(model, examples(), epochs=3, batch_size=2, loss_fn=loss_fn)

    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


def test_ctrl_c_returns_the_finished_epochs() -> None:
    """An interrupted `fit` returns its history, and the model can be trained further."""
    model, calls = nn.Linear(2, 2), []

    def loss_fn(outputs: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 5:  # in the first batch of epoch 3
            raise KeyboardInterrupt
        return F.cross_entropy(outputs, labels)

    history = fit(model, examples(), epochs=3, batch_size=3, loss_fn=loss_fn)

    assert [record.epoch for record in history] == [1, 2]
    assert len(fit(model, examples(), epochs=1)) == 1


def test_each_epoch_is_reported_with_its_held_out_loss() -> None:
    """The callback gets each epoch's record: its held-out loss is what `evaluate` returns then."""
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
def test_a_progress_bar_advances_with_each_batch(
    monkeypatch: pytest.MonkeyPatch, form: Callable[[Any], Any]
) -> None:
    """The bar gets the number of batches, and after each batch the epoch and its loss so far."""
    bars: list[tuple[int, bool]] = []
    lines: list[str] = []

    @contextmanager
    def recorded(total: int, shown: bool) -> Iterator[Callable[[str], None]]:
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
    model, data = Recorder(), form(100, 100)
    optimizer = SGD(model.parameters())
    fit(model, data, epochs=2, loss_fn=model.loss, optimizer=optimizer, **options)
    return [model.seen[:100], model.seen[100:]]


@pytest.mark.parametrize("form", [as_pair, as_tensors, as_examples])
def test_the_seed_or_the_generator_draws_a_new_order_for_each_epoch(
    form: Callable[[int, int], object],
) -> None:
    """The default seed is 0; a generator seeded alike gives the same orders."""
    first, second = orders(form)

    assert sorted(first) == sorted(second) == list(range(100))
    assert first != sorted(first)
    assert second != first
    assert orders(form, seed=0) == [first, second]
    assert orders(form, generator=torch.Generator().manual_seed(0)) == [first, second]
    assert orders(form, seed=1) != [first, second]
    assert orders(form, generator=torch.Generator().manual_seed(1)) == orders(form, seed=1)


def test_a_tensor_dataset_of_images_and_labels_is_used_as_their_pair() -> None:
    """`fit` cuts it by index as it cuts a pair; one of three tensors raises ValueError."""
    model, shapes_seen = nn.Linear(3, 2), []
    model.register_forward_pre_hook(lambda model, args: shapes_seen.append(args[0].shape))
    images, labels = torch.ones(2, 3), torch.tensor([0, 1])

    fit(model, TensorDataset(images, labels), epochs=1)

    assert shapes_seen == [(2, 3)]
    assert orders(as_tensors) == orders(as_pair)
    with pytest.raises(ValueError, match="too many values"):
        fit(model, TensorDataset(images, labels, labels), epochs=1)


def batches_seen(examples: int, **options: Any) -> list[int]:
    """Return the sizes of the batches in which `fit` gives examples to a model."""
    model, sizes = nn.Linear(1, 2), []
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    labels = torch.zeros(examples, dtype=torch.int64)
    fit(model, (torch.ones(examples, 1), labels), epochs=1, **options)
    return sizes


def test_a_batch_has_64_examples_and_comes_in_one_piece_by_default() -> None:
    """`accumulate` cuts each batch into pieces; no piece has examples of two batches."""
    assert batches_seen(130) == [64, 64, 2]
    assert batches_seen(6, batch_size=4) == [4, 2]
    assert batches_seen(6, batch_size=4, accumulate=2) == [2, 2, 1, 1]


def test_train_epoch_alone_counts_from_1_and_takes_whole_batches() -> None:
    """Called without `fit`, `train_epoch` names epoch 1 and gives the model each batch whole."""
    model, sizes = nn.Linear(1, 2), []
    model.register_forward_pre_hook(lambda model, args: sizes.append(len(args[0])))
    loader = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.int64))]
    sgd = SGD(model.parameters(), lr=0.1)

    train_epoch(model, loader, F.cross_entropy, sgd)

    assert sizes == [2]
    with pytest.raises(DivergedError, match=r"^epoch 1, batch 1: "):
        train_epoch(model, [(loader[0][0] * math.nan, loader[0][1])], F.cross_entropy, sgd)


def test_progress_is_shown_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` asks for a progress bar only with `progress=True`."""
    shown: list[bool] = []
    bar = training.progress_bar
    monkeypatch.setattr(
        training, "progress_bar", lambda total, asked: shown.append(asked) or bar(total, False)
    )

    fit(nn.Linear(2, 2), examples(), epochs=1)
    fit(nn.Linear(2, 2), examples(), epochs=1, progress=True)

    assert shown == [False, True]


def test_workers_share_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fit` joins the workers once, with its model, and passes their group to every step."""
    model, group, started, given = nn.Linear(2, 2), object(), [], []
    monkeypatch.setattr(training, "joined_workers", lambda model: started.append(model) or group)
    monkeypatch.setattr(
        training, "train_step", lambda *batch, **options: given.append(options) or 1.0
    )

    fit(model, examples(), epochs=1, batch_size=2, accumulate=3)

    assert started == [model]
    assert given
    assert all(options == {"accumulate": 3, "workers": group} for options in given)


def test_all_workers_start_with_the_same_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process broadcasts parameters and buffers if torch.distributed is initialized."""
    model, sent = nn.BatchNorm1d(2), []
    monkeypatch.setattr(
        torch.distributed, "broadcast", lambda tensor, *, src: sent.append((tensor, src))
    )

    assert joined_workers(model) is None
    assert not sent
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    joined_workers(model)

    own = list(model.state_dict().values())
    assert [src for _, src in sent] == [0] * len(own)
    assert [tensor.data_ptr() for tensor, _ in sent] == [tensor.data_ptr() for tensor in own]


def test_bytes_are_normalized_batch_by_batch() -> None:
    """Images of dtype uint8, in any form of data, reach the model as floats from -1 to 1."""
    images, labels = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8), torch.tensor([0, 1])
    for data in ((images, labels), DataLoader(TensorDataset(images, labels), batch_size=2)):
        model = Recorder()

        fit(model, data, epochs=1, loss_fn=model.loss, optimizer=SGD(model.parameters(), lr=0.1))

        torch.testing.assert_close(sorted(model.seen), [-1.0, -0.6, 0.6, 1.0])


@pytest.mark.parametrize(("width", "expected"), [(2, 1), (1001, 2)])
def test_small_models_train_on_one_thread(width: int, expected: int) -> None:
    """A model below a million parameters gets one thread; the caller's setting is restored."""
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
def test_training_by_hand_is_the_same_training(problem: Problem, accumulate: int) -> None:
    """`ByHand`, the fast chain of layers, ends with the weights and losses of the layers."""
    twin = copy.deepcopy(problem.model)
    data = problem.inputs, problem.labels
    options: dict[str, Any] = {"epochs": 1, "batch_size": 3, "accumulate": accumulate}
    by_hand = ByHand(twin)

    slow = fit(problem.model, data, optimizer=SGD(problem.model.parameters(), lr=0.1), **options)
    fast = fit(by_hand, data, optimizer=SGD(by_hand.parameters(), lr=0.1), **options)

    # In float32 the two order their sums differently; 1e-4 is about a thousand roundings.
    for parameter, other in zip(problem.model.parameters(), twin.parameters(), strict=True):
        assert_close(parameter, other, "both end with the same weights", rtol=1e-4)
    for record, other_record in zip(slow, fast, strict=True):
        assert math.isclose(record.train_loss, other_record.train_loss, rel_tol=1e-4)


def test_a_trained_model_is_in_training_mode() -> None:
    """`fit` leaves a model in training mode, even if it was in eval mode before."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()

    fit(model, examples(), epochs=1)

    assert all(module.training for module in model.modules())


def test_two_processes_of_torchrun_train_as_one_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes print and write once, and end with the weights of a single process."""
    options = ["train", "--epochs=1", "--batch-size=999", "--hidden", "8", "--dropout=0", "--out"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *torchrun, "-m", "dlconcepts", *options, str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    assert main([*options, str(tmp_path / "one")]) == 0
    finished = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)

    outputs = [
        [line for line in text.splitlines() if "seconds" not in line]
        for text in (capsys.readouterr().out, finished.stdout)
    ]
    one, two = (
        checkpoints.load(tmp_path / name / "checkpoint.pt").model.state_dict()
        for name in ("one", "two")
    )
    for name, value in one.items():
        # Two workers add in another order, and Adam divides by the root of tiny squares.
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)
    assert [line.replace("/two/", "/one/") for line in outputs[1]] == outputs[0]
