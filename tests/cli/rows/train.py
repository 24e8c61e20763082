"""`train`."""

from pathlib import Path
from types import SimpleNamespace

import torch

from tests.cli.rows import Row
from tests.cli.rows.given import (
    TRAIN,
    after,
    full_disk,
    good,
    no_pictures,
    setting,
    text,
    trained,
    training,
)

RECORD = {"epoch": 1, "train_loss": 1.0, "held_out_loss": 1.0, "held_out_accuracy": 0.5}
FILES = " ".join(f"run/{name}" for name in ("checkpoint.pt", "*.png", "images/*.png"))


def halve(state: dict[str, dict[int, dict[str, torch.Tensor]]]) -> dict[str, object]:
    """Return the state of an optimizer with half of each tensor."""
    moments = {
        number: {k: v[: len(v) // 2] if v.ndim else v for k, v in own.items()}
        for number, own in state["state"].items()
    }
    return {**state, "state": moments}


def bad_training(change, reason: str) -> Row:
    line = f"{TRAIN} 2 --resume bad.pt --out run"
    return Row(line, 2, f"bad.pt cannot be used ... {reason}", [training(change)])


ROWS = [
    Row(
        f"{TRAIN} 1 --out run",
        0,
        out="data: ... device: cpu ... epoch   1 ... wrote run/loss.png",
        files=FILES,
    ),
    Row(
        f"{TRAIN} 1 --out 'a b/ネコ'",
        0,
        given=[no_pictures],
        files=FILES.replace("run", "*/ネコ"),
    ),
    Row(f"{TRAIN} 1 --out run", 0, given=[no_pictures], files=FILES, to="ascii"),
    Row(f"{TRAIN} 1 --out run --quiet", 0, given=[no_pictures], files=FILES),
    Row(
        f"{TRAIN} 1 --out run --quiet --json -",
        0,
        given=[no_pictures],
        files=FILES,
        out='"schema": 1',
    ),
    Row(f"{TRAIN} 1 --out run --json r.json", 0, given=[no_pictures], files=f"{FILES} r.json"),
    Row("train --json .", 2, "the file .: it is a folder ... --json"),
    # What is there already.
    Row(
        f"{TRAIN} 1 --out run",
        2,
        "run/checkpoint.pt ... --force ... --resume run/checkpoint.pt ... --out",
        [text("run/checkpoint.pt")],
    ),
    Row(f"{TRAIN} 1 --out run", 2, "an earlier run", [trained]),
    Row(f"{TRAIN} 2 --out run --force", 0, given=[no_pictures, trained], files="run/checkpoint.pt"),
    Row(
        f"{TRAIN} 2 --out run --resume run/checkpoint.pt",
        0,
        given=[no_pictures, trained],
        files="run/checkpoint.pt",
        out="epoch   2",
    ),
    Row(
        f"{TRAIN} 2 --out other --resume run/checkpoint.pt",
        0,
        given=[no_pictures, trained],
        files=FILES.replace("run", "other"),
    ),
    Row(
        f"{TRAIN} 1 --out run",
        2,
        "run.partial has an unfinished run ... --force ... --resume run.partial/checkpoint.pt",
        [text("run.partial/checkpoint.pt")],
    ),
    Row(
        f"{TRAIN} 1 --out run --force",
        0,
        given=[no_pictures, trained, text("run/own.txt"), text("run.partial/checkpoint.pt")],
        files="run.partial/checkpoint.pt run/checkpoint.pt",
    ),
    Row(
        f"{TRAIN} 3 --out run --resume other/checkpoint.pt",
        2,
        "run has an earlier run",
        [trained, after(f"{TRAIN} 2 --out other")],
    ),
    # Folders.
    Row("train --out note/run", 2, "cannot write to the folder note/run ... --out", [text("note")]),
    Row("train --out note", 2, "cannot write to the folder note ... --out", [text("note")]),
    Row("train --out /proc/run", 2, "cannot write to the folder /proc/run ... --out"),
    Row("train --out .", 2, "is the working folder, one above it, or a mount ... --out run"),
    Row("train --out ..", 2, "is the working folder, one above it"),
    Row("train --out /", 2, "is the working folder, one above it"),
    Row(
        f"{TRAIN} 1 --out run",
        2,
        "run has room for 7 bytes, but a run needs up to ... --out",
        [setting("shutil.disk_usage", lambda path: SimpleNamespace(free=7))],
    ),
    # What does not work.
    Row("train --device gpu", 2, "unknown device 'gpu': choose one of cpu, cuda, mps, xpu"),
    Row("train --device xpu", 2, "device 'xpu' is not available"),
    Row(
        "train",
        2,
        "train-images-idx3-ubyte.gz is missing; reinstall dlconcepts",
        [setting("dlconcepts.support.datasets.SAMPLE", Path("absent"))],
    ),
    Row(
        "train --full --data images",
        2,
        "images ... apt-get install dataset-fashion-mnist ... --full --download",
        [setting("dlconcepts.support.datasets.DEBIAN", Path("absent"))],
    ),
    Row("train --hidden 2147483647 2147483647", 2, "there is not enough memory; use a smaller"),
    Row(f"{TRAIN} 1 --lr 1e30 --out run", 2, "epoch 1 ... learning rate"),
    Row(
        "train --hidden 4 --epochs 1 --lr 1e30 --batch-size 6000 --out run --force",
        2,
        "learning rate ... run/checkpoint.pt is as it was before",
        [trained],
    ),
    Row(
        "train --hidden 4 --epochs 3 --lr 1e20 --batch-size 6000 --out run --force",
        2,
        "learning rate ... run/checkpoint.pt is as it was before",
        [trained],
    ),
    Row(
        f"{TRAIN} 1 --out run --force",
        2,
        "No space left on device ... --out ... run/checkpoint.pt is as it was before",
        [trained, full_disk],
    ),
    Row(f"{TRAIN} 1 --out run", 2, "No space left on device", [full_disk]),
    # --resume.
    Row("train --resume absent.pt", 2, "absent.pt cannot be read: No such file"),
    Row("train --resume good.pt --hidden 3", 2, "good.pt has no training state", [good]),
    Row("train --resume note", 2, "note is not a checkpoint; pass one written by", [text("note")]),
    Row(f"{TRAIN} 1 --resume run/checkpoint.pt --out new", 2, "already has 1 epochs", [trained]),
    Row(
        f"{TRAIN} 2 --lr 0.1 --resume run/checkpoint.pt --out new",
        2,
        "was trained with lr 0.001; use the same settings",
        [trained],
    ),
    Row(
        f"{TRAIN} 2 --hidden 5 --seed 4 --resume run/checkpoint.pt --out new",
        2,
        "was trained with hidden [4], seed 0; use the same settings",
        [trained],
    ),
    bad_training(lambda own: {"epoch": -3}, "1 epochs, but its epoch is -3"),
    bad_training(lambda own: {"epoch": 2}, "1 epochs, but its epoch is 2"),
    bad_training(lambda own: {"epoch": 0, "history": []}, "0 epochs"),
    bad_training(lambda own: {"epoch": "one"}, "epoch is of type str, not int"),
    bad_training(lambda own: {"history": [{"epoch": 1}]}, "train_loss"),
    bad_training(lambda own: {"history": [{**RECORD, "seconds": "long"}]}, "not finite numbers"),
    bad_training(lambda own: {"history": [{**RECORD, "seconds": torch.nan}]}, "not finite numbers"),
    bad_training(lambda own: {"history": ["one"]}, ""),
    bad_training(lambda own: {"optimizer": {}}, ""),
    bad_training(lambda own: {"optimizer": halve(own["optimizer"])}, "parameters of other shapes"),
    bad_training(lambda own: {"random_states": {}}, "it has no shuffling, cpu"),
    bad_training(
        lambda own: {"random_states": {**own["random_states"], "cpu": torch.zeros(3)}}, ""
    ),
]
