"""Fixtures of the tests of the commands."""

import io
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.cli.common import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(folder: Path) -> Path:
    """Write a grey image into the folder."""
    path = folder / "grey.png"
    Image.new("L", (28, 28), 128).save(path)
    return path


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the figures, which take most of the time of a short training."""
    monkeypatch.setattr("dlconcepts.cli.output.write_figure", lambda path, figure: None)
    monkeypatch.setattr("dlconcepts.cli.train.view_predictions", lambda *arguments: None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Train with the default settings: status, printed text, folder, checkpoint."""
    out = tmp_path_factory.mktemp("runs") / "new" / "run"
    with redirect_stdout(io.StringIO()) as printed:
        status = run(f"train --out {out}")
    checkpoint = out / "checkpoint.pt"
    return SimpleNamespace(status=status, text=printed.getvalue(), out=out, checkpoint=checkpoint)
