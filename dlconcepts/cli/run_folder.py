"""The folder of a run of `train` or `transfer`: one place decides what is on disk, and says it."""

import argparse
import math
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from dlconcepts import checkpoints
from dlconcepts.cli import output
from dlconcepts.support import signals
from dlconcepts.support.atomic import exchange, making, write_json
from dlconcepts.support.errors import UserError, writing
from dlconcepts.support.runs import Epoch, History, make_generator
from dlconcepts.training import DivergedError, fit

Examples = tuple[Tensor, Tensor]
Save = Callable[..., None]
OURS = ("checkpoint.pt", "loss.png", "predictions.png", "confusion.png", "images")


class RunFolder:
    """The folder of a run, which is written beside `--out` and moved into its place when complete.

    What reads `--out` sees the old run or the new one. A run that is stopped stays beside it, and
    can be resumed. Raises UserError, before any work, if the folder cannot be written or replaced,
    or if an earlier run is there and nobody asked to replace it.
    """

    def __init__(self, arguments: argparse.Namespace, settings: Sequence[str]) -> None:
        self.arguments = arguments
        self.settings = {name: getattr(arguments, name) for name in settings}
        out: Path = arguments.out
        self.final: Path = out.resolve() if out.is_symlink() else out
        if out.resolve() in (Path.cwd(), *Path.cwd().parents) or os.path.ismount(out):
            raise UserError(
                f"{out} cannot be replaced as a whole, since it is the working folder, one "
                f"above it, or a mount; choose a folder within it: --out {self.final / 'run'}"
            )
        self.working = self.final.with_name(f"{self.final.name}.partial")
        self.path: Path = self.working / "checkpoint.pt"
        self.write: Callable[[Path], None] | None = None  # writes an epoch that is not on disk yet
        self.complete = False
        self.training: checkpoints.Training | None = None  # the state to resume from
        self.history = History()
        for folder in (self.final, self.working):
            output.check_folder(folder)
        self.refuse_to_replace()
        arguments.keep = self.keep

    def resumes(self, path: Path) -> bool:
        """Return whether this run resumes the one of that checkpoint."""
        resume = self.arguments.resume
        return bool(resume and resume.exists() and path.exists() and path.samefile(resume))

    def refuse_to_replace(self) -> None:
        """Raise UserError if there is an earlier run that is neither resumed nor to be replaced."""
        for path in (self.path, self.final / "checkpoint.pt"):
            if path.exists() and not (self.arguments.force or self.resumes(path)):
                kind = "an unfinished" if path == self.path else "an earlier"
                raise UserError(
                    f"{path.parent} has {kind} run: {path}; replace it with --force, resume it "
                    f"with --resume {path}, or choose another folder with --out"
                )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuse other runs into this folder, and leave nothing if no epoch was written."""
        with making(self.working), locked(self.working, self.final):
            self.refuse_to_replace()  # another run may have ended meanwhile
            if not self.resumes(self.path):
                remove_run(self.working)
            try:
                yield
            finally:
                if not self.complete and not self.path.exists():
                    remove_run(self.working)

    def find_training(self) -> checkpoints.Checkpoint | None:
        """Return the checkpoint to resume; raise UserError if it cannot be resumed like this."""
        path, epochs = self.arguments.resume, self.arguments.epochs
        if path is None:
            return None
        with output.using(path):
            found = checkpoints.load(path)
            if found.training is None:
                raise UserError(f"{path} has no training state; train without --resume")
            had = {name: found.training.settings.get(name) for name in self.settings}
            if other := [f"{name} {had[name]}" for name in had if had[name] != self.settings[name]]:
                raise UserError(
                    f"{path} was trained with {', '.join(other)}; use the same settings"
                )
            self.history = [Epoch(**record) for record in found.training.history]
            numbers = [value for epoch in self.history for value in vars(epoch).values()]
            if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
                raise ValueError("its history has values that are not finite numbers")
            done = found.training.epoch
            if [e.epoch for e in self.history] != list(range(1, done + 1)) or not done:
                there = len(self.history)
                raise ValueError(f"its history has {there} epochs, but its epoch is {done}")
        self.training = found.training
        # A run that was stopped after its last epoch lacks only its pictures.
        if done > epochs or (done == epochs and not self.resumes(self.path)):
            raise UserError(f"{path} already has {done} epochs; ask for more with --epochs")
        return found

    def check_room(self, model: nn.Module) -> None:
        """Raise UserError unless there is room for the weights, the optimizer and the pictures."""
        need = 4 * sum(value.nbytes for value in model.state_dict().values())
        free = shutil.disk_usage(self.working).free
        if free < need:
            raise UserError(
                f"{self.final} has room for {free:,} bytes, but a run needs up to {need:,}; make "
                "room, or choose another folder with --out"
            )

    def start(self, model: nn.Module, optimizer: Optimizer, save: Save, *, at_once: bool) -> None:
        """Take what is trained; if a run is resumed, restore its optimizer and random generators.

        `save` writes a checkpoint, given a path and the training state: of each epoch `at_once`, or
        of the last one when the run ends.
        """
        self.model, self.optimizer, self.save_checkpoint = model, optimizer, save
        self.at_once, self.generator = at_once, make_generator(self.arguments.seed)
        if self.training is None:
            return
        with output.using(self.arguments.resume):
            checkpoints.resume(self.training, optimizer, self.generator)
            for parameter, state in optimizer.state.items():
                if any(state[name].shape != parameter.shape for name in ("exp_avg", "exp_avg_sq")):
                    raise ValueError("its optimizer is for parameters of other shapes")

    def train(self, examples: Examples, held_out: Examples, epochs: int) -> None:
        """Train up to this number of epochs; raise KeyboardInterrupt where Ctrl-C ends `fit`."""
        if len(self.history) < epochs:
            fit(
                self.model,
                examples,
                epochs=epochs,
                start_epoch=len(self.history),
                batch_size=self.arguments.batch_size,
                optimizer=self.optimizer,
                validate=held_out,
                generator=self.generator,
                progress=self.at_once,
                callback=self.end_epoch,
            )
        if len(self.history) < epochs:
            raise KeyboardInterrupt

    def end_epoch(self, record: Epoch) -> None:
        """Print an epoch, and write it, now or later."""
        check_finite(record, self.model)
        self.history.append(record)
        training = checkpoints.capture(
            self.optimizer,
            self.generator,
            epoch=len(self.history),
            settings=self.settings,
            history=[asdict(epoch) for epoch in self.history],
        )
        state = checkpoints.snapshot(self.model)

        def write(path: Path) -> None:
            checkpoints.restore(self.model, state)  # the next epoch may have changed it
            self.save_checkpoint(path, training=training)

        self.write = write
        if self.at_once:
            self.save()
        print_epoch(record)

    def save(self) -> None:
        if self.write is not None:
            with writing(self.final), making(self.working):
                self.write(self.path)
            self.write = None

    def draw(self, **pictures: Figure) -> None:
        with writing(self.final):
            for name, figure in pictures.items():
                output.write_figure(self.working / f"{name}.png", figure)

    def publish(self, classes: Sequence[str]) -> None:
        """Move the complete run into its place, beside files in it that are not of a run."""
        with writing(self.final), signals.finishing():
            if self.final.exists():
                exchange(self.working, self.final)
            else:
                self.working.rename(self.final)
            self.complete = True
            if self.working.exists():  # the old one
                remove_run(self.working)
                for path in self.working.iterdir():
                    path.rename(self.final / path.name)
                self.working.rmdir()
        for path in sorted(self.final.iterdir()):
            if path.name in OURS:
                print(f"wrote {path}")
        record = {"schema": 1, "folder": str(self.final), "classes": list(classes)}
        record |= {"settings": self.settings, "epochs": [asdict(epoch) for epoch in self.history]}
        write_json(self.arguments.json, record)

    def keep(self, stopped: bool) -> str:
        """Save the last epoch wherever there is room; say what is on disk, as read from there."""
        if self.complete:
            return f"{self.final} has the complete run"
        path = self.save_anywhere(self.write) if self.write else self.path
        old = self.final / "checkpoint.pt"
        before = f"{old} is as it was before" if old.exists() else ""
        if not path.exists():
            return before or ("nothing was written" if stopped else "")
        training = checkpoints.load(path).training
        done = training.epoch if training else 0
        said = f"{path} keeps {done} of {self.arguments.epochs} epochs"
        again = "resume" if path == self.path else "make room and resume"
        line = list(self.arguments.line)
        if "--resume" in line:
            del line[line.index("--resume") : line.index("--resume") + 2]
        line += ["--resume", str(path)]
        # This run was allowed to replace the old one, perhaps because it resumed that.
        line += ["--force"] if old.exists() and not self.arguments.force else []
        way = f"{again} with `python -m dlconcepts {shlex.join(line)}`"
        return "; ".join(filter(None, (before, said, way if stopped or self.write else "")))

    def save_anywhere(self, write: Callable[[Path], None]) -> Path:
        """Write the last epoch into the folder of the run, or else of the system's temporary files.

        Return the path, which does not exist if there is no room there either.
        """
        with suppress(UserError):
            self.save()
            return self.path
        path = Path(tempfile.mkdtemp(prefix="dlconcepts-"), "checkpoint.pt")
        with suppress(OSError):
            write(path)
            return path
        path.parent.rmdir()
        return self.path


def remove_run(folder: Path) -> None:
    shutil.rmtree(folder / "images", ignore_errors=True)
    for name in OURS:
        with suppress(IsADirectoryError, PermissionError):  # a folder that is not ours
            (folder / name).unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, final: Path) -> Iterator[None]:
    """Lock a folder; raise UserError if another process has. A killed process leaves no lock."""
    try:
        import fcntl
    except ImportError:  # on Windows, where two runs are not kept apart
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(handle), folder.stat()):
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError) as error:
            raise UserError(
                f"another run is writing to {final}; wait for it, or choose another with --out"
            ) from error
        except OSError:  # this file system has no locks
            pass
        yield
    finally:
        os.close(handle)


def print_epoch(record: Epoch) -> None:
    print(
        f"epoch {record.epoch:3d}: training loss {record.train_loss:.4f}, "
        f"held-out loss {record.held_out_loss:.4f}, accuracy {record.held_out_accuracy:.1%}",
        flush=True,
    )
    signals.check()


def check_finite(record: Epoch, model: nn.Module) -> None:
    """Raise DivergedError unless the losses of an epoch and all weights are finite numbers."""
    losses = {"training": record.train_loss, "held-out": record.held_out_loss}
    wrong = [f"the {name} loss is {x}" for name, x in losses.items() if not math.isfinite(x or 0)]
    if not all(bool(value.isfinite().all()) for value in model.state_dict().values()):
        wrong.insert(0, "weights are not finite")
    if wrong:
        raise DivergedError(f"epoch {record.epoch}: {wrong[0]}; lower the learning rate")
