"""Techniques of checkpoints: bad input, edge cases and speed, beyond the claims."""

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

import dlconcepts
from dlconcepts import checkpoints
from dlconcepts.checkpoints import Training, capture, load, resume, save
from dlconcepts.networks import Network
from dlconcepts.support.bitwise import state_of
from dlconcepts.support.checkpoint_files import CheckpointError, find_fault, load_file, save_file
from dlconcepts.transfer import TransferNetwork
from tests.checkpoints.common import (
    CAN_FORK,
    GADGETS,
    MODEL,
    PLACES,
    a_trap,
    forge,
    parts_of,
)

FIXTURES = Path(__file__).parents[1] / "checkpoints"


def test_no_code_is_run_though_the_environment_allows_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch has a variable that turns its default round; a checkpoint does not depend on it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with a_trap(folder, next(iter(GADGETS)), PLACES[0]) as (path, marker, model):
        with pytest.raises(CheckpointError, match="pickled code, which was not run"):
            load(path, model)

        assert not marker.exists(), "no code is run while loading"


@pytest.mark.parametrize("classes", [["one"], ["one", 2]])
def test_class_names_that_do_not_fit_are_refused(classes: list[Any], folder: Path) -> None:
    """A name too few, or one that is no text, is an error, and a given model is as it was."""
    path, model = folder / "classes.pt", Network(2, [], 2)
    save(path, Network(2, [], 2), **parts_of(model))
    save_file({**load_file(path), "classes": classes}, path)
    before = state_of(model)

    for given_model in (None, model):
        with pytest.raises(CheckpointError, match="2 outputs"):
            load(path, given_model)

    assert state_of(model) == before


def test_a_model_that_could_not_be_built_again_is_not_saved(folder: Path) -> None:
    """A subclass, an object as a setting and too few class names are errors, and leave no file."""

    class Wider(Network):
        """A network of another class."""

    model, path = Network(2, [], 2), folder / "never.pt"
    training = Training(1, {}, {}, settings={"device": torch.device("cpu")})

    with pytest.raises(TypeError, match="must be a Network, but it is a Wider"):
        save(path, Wider(2, [], 2), **parts_of(model))
    with pytest.raises(TypeError, match=r"content\['training'\]\['settings'\]\['device'\]"):
        save(path, model, **parts_of(model), training=training)
    sizes = replace(training, settings={"sizes": [1, [2j]]})
    with pytest.raises(TypeError, match=r"\['settings'\]\['sizes'\]\[1\]\[0\] is a complex"):
        save(path, model, **parts_of(model), training=sizes)
    keys = replace(training, settings={"sizes": {1j: 1}})
    with pytest.raises(TypeError, match=r"the key 1j of .*\['sizes'\] is a complex"):
        save(path, model, **parts_of(model), training=keys)
    with pytest.raises(ValueError, match="2 outputs"):
        save(path, model, classes=["one"], normalization={})

    assert not list(folder.glob("*never*"))


def test_a_checkpoint_says_what_wrote_it(tmp_path: Path) -> None:
    """The versions of dlconcepts and of torch."""
    save(tmp_path / "one.pt", Network(2, [], 1), classes=["cat"], normalization={})

    assert load(tmp_path / "one.pt").libraries == {
        "dlconcepts": dlconcepts.__version__,
        "torch": str(torch.__version__),
    }


def test_a_transfer_network_comes_back_whole(tmp_path: Path) -> None:
    """To build it by its name draws weights that nobody needs, but the random state stays.

    It is a RegNet, which cannot be built on the meta device.
    """
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
        (7, "it comes from elsewhere: it has no format_version, architecture"),
        ([1, 2], "it comes from elsewhere: it has no format_version, architecture"),
        ({"format_version": 1, "weights": {}}, "it comes from elsewhere: it has no architecture"),
        ({"weights": {}}, "it comes from elsewhere: it has no format_version"),
    ],
)
def test_what_is_no_checkpoint_is_said_to_come_from_elsewhere(
    tmp_path: Path, content: Any, reason: str
) -> None:
    """Whatever the file holds, the parts that are missing are named."""
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
def test_a_part_that_is_wrong_is_named(tmp_path: Path, part: dict[str, Any], reason: str) -> None:
    """A class that is not known, or a value of another type."""
    path = tmp_path / "one.pt"
    save(path, Network(2, [], 1), classes=["cat"], normalization={})
    save_file({**load_file(path), **part}, path)

    with pytest.raises(CheckpointError, match=reason):
        load(path)


def test_a_captured_training_stays_as_it_was() -> None:
    """What was captured does not change while the optimizer steps on."""
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
    """The generator of the model's device is put back where it was, if there is a state for it."""
    device = torch.device("meta")  # in place of an accelerator: torch has no generator for it
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


def test_another_optimizer_is_refused_before_anything_changes() -> None:
    """An optimizer of other parameters raises ValueError, and the generators stay as they are."""
    one, two = (nn.Parameter(torch.ones(1)) for _ in range(2))
    training = capture(torch.optim.SGD([one]), torch.Generator().manual_seed(1), epoch=1)
    generator = torch.Generator().manual_seed(2)
    before = generator.get_state(), torch.get_rng_state()

    with pytest.raises(ValueError, match="parameter group"):
        resume(training, torch.optim.SGD([one, two]), generator)

    assert generator.get_state().equal(before[0])
    assert torch.get_rng_state().equal(before[1])


@contextmanager
def without_privileges() -> Iterator[None]:
    """Give up the rights of the superuser, for whom no folder is read-only."""
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
    """A folder in which nothing may be written is an OSError that names it."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "model.pt")
        save_file(torch.zeros(2), path)
        path.parent.chmod(0o555)

        with without_privileges(), pytest.raises(PermissionError, match=r"model\.pt"):
            save_file(torch.ones(2), path)

        assert load_file(path).equal(torch.zeros(2))
        assert list(path.parent.iterdir()) == [path]
        path.parent.chmod(0o755)


def test_what_is_no_file_is_not_replaced(folder: Path) -> None:
    """A folder and a device in the place of the file are an OSError, and stay what they are."""
    for path in (folder, Path(os.devnull)):
        with pytest.raises(FileExistsError, match="Not a file that can be replaced"):
            save_file(torch.ones(2), path)

    assert folder.is_dir()
    assert Path(os.devnull).is_char_device() or os.name == "nt"


def test_a_missing_folder_is_an_error(folder: Path) -> None:
    """A folder that is not there is an OSError, and is not made."""
    with pytest.raises(FileNotFoundError, match="absent"):
        save_file(torch.ones(2), folder / "absent" / "model.pt")

    assert not (folder / "absent").exists()


@CAN_FORK
def test_a_link_is_followed(folder: Path) -> None:
    """A checkpoint that is a symbolic link stays one, and what it points to is replaced."""
    path, link = folder / "target.pt", folder / "link.pt"
    save_file(torch.zeros(2), path)
    link.symlink_to(path)

    save_file(torch.ones(2), link)

    assert link.is_symlink()
    assert load_file(path).equal(torch.ones(2))


def test_every_flipped_bit_and_every_length_is_found() -> None:
    """Of one checkpoint, each bit is flipped and each shorter length is tried."""
    content = bytearray(forge(MODEL.state_dict()))
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
def test_another_kind_of_file_is_refused(content: bytes, folder: Path) -> None:
    """A file that is no checkpoint at all is an error that names it and what to give."""
    path = folder / "other.pt"
    path.write_bytes(content)

    with pytest.raises(CheckpointError, match=r"other\.pt .* give one written by"):
        load(path)


def test_what_is_no_file_cannot_be_loaded(folder: Path) -> None:
    """A missing file and a folder are errors that say so."""
    with pytest.raises(CheckpointError, match=r"absent\.pt cannot be read: No such file"):
        load(folder / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


def test_each_format_version_has_a_file() -> None:
    """A new version comes with a file of it, written by `save_example`."""
    versions = range(1, checkpoints.VERSION + 1)

    assert {path.name for path in FIXTURES.iterdir()} == {f"version-{n}.pt" for n in versions}


@pytest.mark.parametrize("path", sorted(FIXTURES.iterdir()), ids=lambda path: path.stem)
def test_each_format_version_stays_readable(path: Path) -> None:
    """A file of any version gives the model, its settings and where its training stood."""
    checkpoint = load(path)

    architecture = checkpoint.model.architecture
    assert architecture == {
        "in_features": 3,
        "hidden_features": [2],
        "out_features": 2,
        "activation": "tanh",
        "dropout": 0.25,
    }
    # The first step of 0.5 from the values of save_example.
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
