"""The techniques of lesson 6, checkpoints, beyond the claims: bad input and edge cases."""

import io
import itertools
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dlconcepts import checkpoints
from dlconcepts.checkpoints import Training, capture, load, resume, save
from dlconcepts.networks import Network
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.checkpoint_files import CheckpointError, find_fault, load_file, save_file
from dlconcepts.transfer import TransferNetwork
from tests.checkpoints.common import GADGETS, PLACES, a_trap, forge, parts_of
from tests.checkpoints.dying import CAN_FORK

RELEASED = sorted(Path(__file__).parents[1].glob("checkpoints/version-*.pt"))


def test_no_code_is_run_even_if_the_environment_allows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that makes torch.load run code by default does not affect `load`."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with a_trap(tmp_path, next(iter(GADGETS)), PLACES[0]) as (path, marker, model):
        with pytest.raises(CheckpointError, match="pickled code, which was not run"):
            load(path, model)

        assert not marker.exists()


@pytest.mark.parametrize("classes", [["one"], ["one", 2]])
def test_class_names_that_do_not_fit_are_refused(classes: list[Any], tmp_path: Path) -> None:
    """A missing name, or one that is not a str, is an error and leaves a given model unchanged."""
    path, model = tmp_path / "classes.pt", Network(2, [], 2)
    save(path, Network(2, [], 2), **parts_of(model))
    save_file({**load_file(path), "classes": classes}, path)
    before = state_of(model)

    for given_model in (None, model):
        with pytest.raises(CheckpointError, match="2 outputs"):
            load(path, given_model)

    assert state_of(model) == before


def test_an_error_names_the_place_of_an_object(tmp_path: Path) -> None:
    """An object deep in the settings is an error that names its place, and nothing is written."""
    model, path = Network(2, [], 2), tmp_path / "never.pt"
    training = Training(1, {}, {}, settings={"sizes": [1, [2j]]})

    with pytest.raises(TypeError, match=r"\['settings'\]\['sizes'\]\[1\]\[0\] is a complex"):
        save(path, model, **parts_of(model), training=training)
    keys = replace(training, settings={"sizes": {1j: 1}})
    with pytest.raises(TypeError, match=r"the key 1j of .*\['sizes'\] is a complex"):
        save(path, model, **parts_of(model), training=keys)

    assert not list(tmp_path.iterdir())


def test_a_transfer_network_is_restored(tmp_path: Path) -> None:
    """Loading restores a TransferNetwork in eval mode and leaves the random state as it was."""
    # A RegNet cannot be built on the meta device, so building it draws weights.
    model = TransferNetwork("regnet_y_400mf", [], 2)
    save(tmp_path / "one.pt", model, classes=["cat", "dog"], normalization={"size": 32})
    before = torch.get_rng_state()

    found = load(tmp_path / "one.pt").model

    assert torch.get_rng_state().equal(before)
    assert isinstance(found, TransferNetwork)
    assert not any(module.training for module in found.modules())
    assert state_of(found) == state_of(model.eval())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (7, "it is not a checkpoint: it has no format_version, architecture"),
        ([1, 2], "it is not a checkpoint: it has no format_version, architecture"),
        ({"format_version": 1, "weights": {}}, "it is not a checkpoint: it has no architecture"),
        ({"weights": {}}, "it is not a checkpoint: it has no format_version"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(
    tmp_path: Path, content: Any, reason: str
) -> None:
    """The error names the parts that are missing, whatever the file holds."""
    save_file(content, tmp_path / "other.pt")

    with pytest.raises(CheckpointError, match=reason):
        load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"architecture": {"class": "Tower"}}, "it is for the class 'Tower', not 'Network'"),
        ({"architecture": {}}, "it is for the class None, not 'Network'"),
        ({"classes": "cat"}, "its classes is of type str, not list"),
    ],
)
def test_an_error_names_the_bad_part(tmp_path: Path, part: dict[str, Any], reason: str) -> None:
    """An unknown class, or a value of another type, is an error that names the part."""
    path = tmp_path / "one.pt"
    save(path, Network(2, [], 1), classes=["cat"], normalization={})
    save_file({**load_file(path), **part}, path)

    with pytest.raises(CheckpointError, match=reason):
        load(path)


def test_values_go_into_the_models_own_tensors_after_a_load_that_assigned() -> None:
    """Torch notes assign=True in the state_dict, and its next load without it assigns too."""
    model, torchs, saved = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1).state_dict()
    nn.Linear(2, 1).load_state_dict(saved, assign=True)
    own, others = model.weight, torchs.weight

    checkpoints.restore(model, saved)
    torchs.load_state_dict(saved)

    assert model.weight is own
    assert own.data_ptr() != saved["weight"].data_ptr()
    assert own.equal(saved["weight"])
    assert torchs.weight is not others  # if this fails, torch has mended it


def test_later_steps_do_not_change_a_captured_training() -> None:
    """`capture` copies the optimizer's state."""
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(1)
    optimizer.step()

    training = capture(optimizer, torch.Generator(), epoch=1)
    optimizer.step()

    assert training.optimizer["state"][0]["momentum_buffer"].item() == 1


def test_the_history_and_the_random_state_of_the_device_are_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`resume` restores the generator of the optimizer's device if `capture` found one."""
    device = torch.device("meta")  # stands in for an accelerator, with a generator of our own
    state, given = torch.zeros(16, dtype=torch.uint8), []
    module = SimpleNamespace(
        get_rng_state=lambda where: {device: state}[where],
        set_rng_state=lambda state, where: given.append((state, where)),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda where: {device: module}[where])
    there, here = (
        torch.optim.SGD([nn.Parameter(torch.ones(1, device=d))]) for d in (device, "cpu")
    )

    training = capture(there, torch.Generator(), epoch=1, history=[{"loss": 1.0}])
    resume(training, there, torch.Generator())
    resume(training, here, torch.Generator())
    resume(capture(here, torch.Generator(), epoch=1), there, torch.Generator())

    assert training.history == [{"loss": 1.0}]
    assert len(given) == 1
    assert given[0][0] is state
    assert given[0][1] == device


@contextmanager
def without_privileges() -> Iterator[None]:
    # To the superuser no folder is read-only, so be nobody (65534) meanwhile.
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


@CAN_FORK
def test_a_read_only_folder_leaves_the_old_file() -> None:
    """Saving in a read-only folder raises an OSError that names the file."""
    # Not in tmp_path, whose parents only the superuser may enter.
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "model.pt")
        save_file(torch.zeros(2), path)
        path.parent.chmod(0o555)

        with without_privileges(), pytest.raises(PermissionError, match=r"model\.pt"):
            save_file(torch.ones(2), path)

        assert load_file(path).equal(torch.zeros(2))
        assert list(path.parent.iterdir()) == [path]
        path.parent.chmod(0o755)


def test_a_folder_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    """Saving to a folder or a device raises an OSError and leaves it alone."""
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(FileExistsError, match="Not a file that can be replaced"):
            save_file(torch.ones(2), path)

    assert tmp_path.is_dir()
    assert Path(os.devnull).is_char_device() or os.name == "nt"


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Saving to a missing folder raises an OSError and does not create the folder."""
    with pytest.raises(FileNotFoundError, match="absent"):
        save_file(torch.ones(2), tmp_path / "absent" / "model.pt")

    assert not (tmp_path / "absent").exists()


@CAN_FORK
def test_a_link_is_followed(tmp_path: Path) -> None:
    """Saving to a symbolic link keeps the link and replaces the file it points to."""
    path, link = tmp_path / "target.pt", tmp_path / "link.pt"
    save_file(torch.zeros(2), path)
    link.symlink_to(path)

    save_file(torch.ones(2), link)

    assert link.is_symlink()
    assert load_file(path).equal(torch.ones(2))


def test_every_flipped_bit_and_every_length_is_found() -> None:
    """The checksum finds each single flipped bit of a file, and each shorter length."""
    content = bytearray(forge(Network(2, [2], 2).state_dict()))
    assert find_fault(io.BytesIO(content)) is None

    for position, bit in itertools.product(range(len(content)), range(8)):
        content[position] ^= 1 << bit
        assert find_fault(io.BytesIO(content)), f"bit {bit} of byte {position} is flipped"
        content[position] ^= 1 << bit
    for length in range(len(content)):
        assert find_fault(io.BytesIO(content[:length])), f"only {length} bytes are left"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04", pickle.dumps({"weight": 1})],
    ids=["empty", "text", "png", "zip", "pickle"],
)
def test_another_kind_of_file_is_refused(content: bytes, tmp_path: Path) -> None:
    """The error names the file and says what to pass instead."""
    path = tmp_path / "other.pt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"the file .*other\.pt .*; pass one written by"):
        load(path)


def test_a_missing_file_or_a_folder_cannot_be_loaded(tmp_path: Path) -> None:
    """Loading a missing file or a folder raises CheckpointError with the system's reason."""
    with pytest.raises(CheckpointError, match=r"absent\.pt cannot be read: No such file"):
        load(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(tmp_path)


# How version-1.pt was made: parameter number k of a Network got the values (0 - k, 1 - k, ...) / 8.
# SGD with lr 0.5 and momentum 0.5 took one step with gradients of 1, so each value fell by 0.5 and
# each momentum is 1. Then `capture`, with a generator of seed 7, and `save` wrote the file. A new
# format version needs a file made in the same way.
def test_each_format_version_has_a_file() -> None:
    """The repository has one file for each format version."""
    versions = range(1, checkpoints.VERSION + 1)

    assert {path.name for path in RELEASED} == {f"version-{n}.pt" for n in versions}


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_each_format_version_stays_readable(path: Path) -> None:
    """A file of any version restores the model, its settings and the state of its training."""
    checkpoint = load(path)

    architecture = checkpoint.model.architecture
    assert architecture == {
        "in_features": 3,
        "hidden_features": [2],
        "out_features": 2,
        "activation": "tanh",
        "dropout": 0.25,
    }
    assert {name: tensor.tolist() for name, tensor in checkpoint.model.state_dict().items()} == {
        "hidden.0.weight": [[-0.5, -0.375, -0.25], [-0.125, 0.0, 0.125]],
        "hidden.0.bias": [-0.625, -0.5],
        "output.weight": [[-0.75, -0.625], [-0.5, -0.375]],
        "output.bias": [-0.875, -0.75],
    }
    assert checkpoint.classes == ("cat", "dog")
    assert checkpoint.normalization == {"mean": 0.25, "std": 0.5}
    training, generator = checkpoint.training, torch.Generator()
    assert (training.epoch, training.settings) == (1, {"seed": 7})
    assert training.history == [{"epoch": 1, "train_loss": 0.5}]
    optimizer = torch.optim.SGD(checkpoint.model.parameters(), lr=0.1)
    with torch.random.fork_rng(devices=[]):
        resume(training, optimizer, generator)
    assert generator.get_state().equal(torch.Generator().manual_seed(7).get_state())
    assert optimizer.param_groups[0]["momentum"] == 0.5
    assert optimizer.state[checkpoint.model.output.bias]["momentum_buffer"].tolist() == [1, 1]
