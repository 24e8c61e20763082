"""The script that trains the network of the package, and the weights that it gave."""

import shutil
from pathlib import Path

import pytest

from dlconcepts.support.bitwise import bits
from dlconcepts.support.datasets import CLASSES
from dlconcepts.weights import WeightsError, load_weights
from tests.data.make_weights import (
    ACCURACY,
    KNOWN,
    NEW,
    WEIGHTS,
    accuracy,
    network,
    photographs,
    train,
    write,
)


def test_the_weights_are_as_right_as_the_script_says() -> None:
    """They are under 1 MB, and the notice of the data's licence names them."""
    model = network(len(KNOWN))
    load_weights(model, WEIGHTS)

    assert accuracy(model.eval()) == pytest.approx(ACCURACY, abs=0.01)
    assert WEIGHTS.stat().st_size < 1_000_000
    assert "clothes-*.pth" in (WEIGHTS.parent / "LICENSE.fashion-mnist").read_text()


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    """The name of the file has its SHA-256."""
    damaged = Path(shutil.copy(WEIGHTS, tmp_path))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)

    with pytest.raises(WeightsError, match="damaged"):
        load_weights(network(len(KNOWN)), damaged)


def test_training_again_gives_the_same_file(tmp_path: Path) -> None:
    """A short training, twice; `load_weights` accepts the file."""
    first, again = train(epochs=1, each=20), train(epochs=1, each=20)

    assert write(first, tmp_path) == write(again, tmp_path)
    loaded = network(len(KNOWN)).eval()
    load_weights(loaded, write(first, tmp_path))
    expected = first.state_dict()
    assert all(bits(t) == bits(expected[name]) for name, t in loaded.state_dict().items())


def test_a_seed_draws_the_same_photographs_again() -> None:
    """Each kind is drawn as often, in colour; another seed draws others."""
    assert sorted(KNOWN + NEW) == sorted(CLASSES)
    first, again, other = (photographs(NEW, seed=seed, train=False, each=2) for seed in (0, 0, 1))

    assert [image.tobytes() for image, _ in first] == [image.tobytes() for image, _ in again]
    assert [image.tobytes() for image, _ in first] != [image.tobytes() for image, _ in other]
    assert [label for _, label in first] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {(image.mode, image.size) for image, _ in first} == {("RGB", (40, 40))}
