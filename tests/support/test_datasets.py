"""Fashion-MNIST is read whole, from the named source, or an error says what to do.

The oracle for the format is torchvision's own reader. Nothing here uses the network.
"""

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from dlconcepts.support import datasets
from dlconcepts.support.datasets import DEBIAN, SAMPLE, DataError, fashion_mnist, read_image
from tests.data.make_sample import make_sample, stratified, write_idx

parts = pytest.mark.parametrize("train", [True, False], ids=["train", "test"])
needs_official_files = pytest.mark.skipif(
    not DEBIAN.exists(), reason="needs the official files: apt-get install dataset-fashion-mnist"
)


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """Let the library use a copy of the sample, whose files can be damaged; return its folder."""
    folder = tmp_path / "sample"
    folder.mkdir()
    for file in SAMPLE.glob("*-ubyte.gz"):
        shutil.copy(file, folder)
    monkeypatch.setattr(datasets, "SAMPLE", folder)
    return folder


@pytest.fixture
def no_official_files(tmp_path, monkeypatch):
    """Work without Debian's package, with the sample's content as the full set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(datasets, "FULL_SHA256", datasets.SAMPLE_SHA256)


def lay_out(root):
    """Put the sample's files where torchvision puts the official ones, as it unpacks them."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in SAMPLE.glob("*-ubyte.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))


# ------------------------------------------------- the embedded sample


@parts
def test_the_sample_has_the_same_number_of_images_of_each_class(train):
    """Each of the ten classes has 600 training and 100 test images, uint8, 28 x 28."""
    examples, per_class = fashion_mnist(train=train), 600 if train else 100

    assert examples.images.dtype == torch.uint8
    assert examples.images.shape == (10 * per_class, 28, 28)
    assert examples.labels.dtype == torch.int64
    assert examples.labels.bincount().tolist() == [per_class] * 10


@parts
def test_the_sample_reads_as_torchvision_reads_it(train, tmp_path):
    """Images, labels and class names are the ones that torchvision's own reader finds."""
    lay_out(tmp_path)

    ours, theirs = fashion_mnist(train=train), torchvision.datasets.FashionMNIST(tmp_path, train)

    assert ours.images.equal(theirs.data)
    assert ours.labels.equal(theirs.targets)
    assert list(ours.classes) == theirs.classes


def test_no_test_image_is_a_training_image():
    """The sample's two parts have no image in common."""
    images = (fashion_mnist(train=part).images.flatten(1).numpy() for part in (True, False))
    train, test = ({bytes(image) for image in part} for part in images)

    assert train.isdisjoint(test)


@pytest.mark.parametrize("name", [f"{name}.gz" for name in datasets.SAMPLE_SHA256])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: b"PK" + content[2:], id="not-gzip"),
        pytest.param(lambda content: content[:300] + b"\0\1\2\3" + content[304:], id="overwritten"),
        pytest.param(
            lambda content: gzip.compress(gzip.decompress(content)[:-1] + b"\xff", 1),
            id="last-byte",
        ),
    ],
)
def test_a_damaged_sample_is_an_error_that_names_the_file(sample, name, damage):
    """A damaged file is never read as data, and the message says how to replace it."""
    path = sample / name
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(DataError, match="reinstall dlconcepts") as raised:
        fashion_mnist(train=name.startswith("train"))

    assert str(path) in str(raised.value)


def test_a_missing_sample_is_an_error_that_names_the_file(sample):
    """The message names the file and says how to restore it."""
    (sample / "t10k-labels-idx1-ubyte.gz").unlink()

    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing; reinstall"):
        fashion_mnist(train=False)


# ------------------------------------------------- the full set


@pytest.mark.usefixtures("no_official_files")
def test_the_full_set_is_read_where_torchvision_puts_it(tmp_path):
    """Files in root/FashionMNIST/raw come before Debian's, and are named as the source."""
    lay_out(tmp_path / "root")
    shutil.copytree(SAMPLE, tmp_path / "debian")

    examples = fashion_mnist(train=False, full=True, root=tmp_path / "root")

    assert str(tmp_path / "root" / "FashionMNIST" / "raw") in examples.source
    assert examples.images.equal(fashion_mnist(train=False).images)


@pytest.mark.usefixtures("no_official_files")
def test_the_full_set_is_read_from_debian_if_the_root_has_none(tmp_path):
    """The compressed files of Debian's package are read, and named as the source."""
    shutil.copytree(SAMPLE, tmp_path / "debian")

    examples = fashion_mnist(train=True, full=True)

    assert str(tmp_path / "debian") in examples.source
    assert examples.labels.equal(fashion_mnist(train=True).labels)


@pytest.mark.usefixtures("no_official_files")
def test_a_missing_full_set_is_an_error_with_both_remedies(tmp_path, monkeypatch):
    """The error has two commands that bring the files, and nothing is downloaded without asking."""
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", pytest.fail)

    with pytest.raises(DataError, match=r"apt-get install dataset-fashion-mnist.* --download"):
        fashion_mnist(train=True, full=True)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_official_files")
def test_with_download_torchvision_fetches_the_files(tmp_path, monkeypatch):
    """With download=True torchvision downloads the files into the root."""
    monkeypatch.setattr(
        torchvision.datasets, "FashionMNIST", lambda root, download: lay_out(Path(root))
    )

    examples = fashion_mnist(train=True, full=True, root=tmp_path / "root", download=True)

    assert str(tmp_path / "root" / "FashionMNIST" / "raw") in examples.source


@pytest.mark.usefixtures("no_official_files")
@pytest.mark.parametrize("error", [RuntimeError("Error downloading"), OSError("no route to host")])
def test_a_failed_download_is_an_error_with_its_reason(error, monkeypatch):
    """Errors of torchvision and of the network become a DataError with the same reason."""

    def fail(root, download):
        raise error

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)

    with pytest.raises(DataError, match=f"could not be downloaded.*{error}"):
        fashion_mnist(train=True, full=True, download=True)


@pytest.mark.usefixtures("no_official_files")
def test_a_damaged_full_set_is_an_error_with_the_remedy(tmp_path):
    """A wrong byte is found even in an uncompressed file, which has no checksum of gzip."""
    lay_out(tmp_path)
    labels = tmp_path / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\xff")

    with pytest.raises(DataError, match="wrong checksum; delete it and run again with --download"):
        fashion_mnist(train=True, full=True, root=tmp_path)


@needs_official_files
def test_the_official_files_have_all_images():
    """Debian's package has 6,000 training and 1,000 test images of each class."""
    train, test = (fashion_mnist(train=part, full=True) for part in (True, False))

    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10


# ------------------------------------------------- the script


@needs_official_files
def test_the_script_makes_the_sample_that_is_committed(tmp_path):
    """From the official files the script makes the content that this package contains."""
    make_sample(tmp_path)

    for file in SAMPLE.glob("*-ubyte.gz"):
        assert gzip.decompress((tmp_path / file.name).read_bytes()) == gzip.decompress(
            file.read_bytes()
        )


def test_the_script_draws_the_same_number_of_each_class():
    """The positions are sorted and unique, and the draw is the same each time."""
    labels = torch.tensor([0] * 20 + [1] * 50 + [2] * 30)

    chosen = stratified(labels, per_class=10)

    assert labels[chosen].bincount().tolist() == [10, 10, 10]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert chosen.equal(stratified(labels, per_class=10))


def test_the_script_writes_what_torchvision_reads(tmp_path):
    """The files are in the official format, and the same values give the same bytes."""
    values = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)

    for name in ("first", "second"):
        write_idx(tmp_path / f"{name}.gz", values)
    (tmp_path / "plain").write_bytes(gzip.decompress((tmp_path / "first.gz").read_bytes()))

    read = torchvision.datasets.mnist.read_image_file(tmp_path / "plain")
    assert read.equal(values)
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()


# ------------------------------------------------- image files


@pytest.fixture
def pixels():
    """Return grey pixels of all values; all rows differ, so that a turned image shows."""
    return np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_a_grey_image_of_the_right_size_keeps_every_pixel(mode, pixels, tmp_path):
    """The mode in which a file stores grey pixels does not change them."""
    Image.fromarray(pixels).convert(mode).save(tmp_path / "image.png")

    assert read_image(tmp_path / "image.png").equal(torch.from_numpy(pixels))


def test_16_bit_grey_keeps_its_upper_8_bits(pixels, tmp_path):
    """Grey values up to 65535 are scaled to 255, not clipped at 255."""
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "image.png")

    assert read_image(tmp_path / "image.png").equal(torch.from_numpy(pixels))


def test_transparent_pixels_are_black(tmp_path):
    """Transparency becomes black, the background of Fashion-MNIST."""
    Image.new("RGBA", (28, 28), (255, 255, 255, 0)).save(tmp_path / "image.png")

    assert read_image(tmp_path / "image.png").max() == 0


def test_an_image_that_is_not_square_is_centred_on_black(tmp_path):
    """A wide image keeps its proportions, with black bars above and below."""
    Image.new("L", (100, 50), 255).save(tmp_path / "image.jpg")

    image = read_image(tmp_path / "image.jpg")

    assert image.shape == (28, 28)
    assert image[:7].max() == image[-7:].max() == 0
    assert image[7:-7].min() > 250


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, 1), (np.uint16, 257)])
def test_a_photograph_is_turned_upright(dtype, scale, pixels, tmp_path):
    """The EXIF orientation of the camera is applied, whatever the depth of the grey."""
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = Image.fromarray(pixels.astype(dtype) * scale)
    image.save(tmp_path / "image.png", exif=exif)

    assert read_image(tmp_path / "image.png").equal(torch.from_numpy(pixels[::-1, ::-1].copy()))


def test_a_missing_image_is_an_error_that_names_it(tmp_path):
    """The message names the missing file."""
    with pytest.raises(DataError, match=r"no image file .*boot\.png"):
        read_image(tmp_path / "boot.png")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", "half"])
def test_an_unreadable_image_is_an_error_that_names_it(content, pixels, tmp_path):
    """Empty, foreign and truncated files are refused, and the message says what to give."""
    path = tmp_path / "boot.png"
    if content == "half":
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()[:400]
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"boot\.png is not an image.*PNG or JPEG"):
        read_image(path)
