"""Correct training scripts: composed from choices that go together, and one file a rarer kind.

`compose(Choice(...))` writes a script as a person would: a model, data, a loop, a validation, a
schedule, and a way to keep weights. `KINDS` are the files of `kinds/`, which do what the choices
cannot: several optimizers, closures, graphs, target networks. All of them are right.
"""

import itertools
import random
import re
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import dedent, indent

from hypothesis import strategies as st


@dataclass(frozen=True)
class Program:
    """A script: its name, its text, and whether it was composed."""

    name: str
    text: str
    composed: bool = True

    def __repr__(self) -> str:
        return f"<program {self.name}>"


KINDS = {
    path.stem: Program(path.stem, path.read_text(encoding="utf-8"), composed=False)
    for path in sorted((Path(__file__).parent / "kinds").glob("*.py"))
}


# --------------------------------------------------------------------------- the task


@dataclass(frozen=True)
class Task:
    """What is learned: a model and its data, the loss, and when a prediction is right.

    `{}` in `loss` stands for the call of the model, and `output` in `right` for its result.
    """

    title: str
    model: str
    data: str
    loss: str
    right: str = ""
    setup: str = ""


def task(title: str, model: str, data: str, loss: str, right: str = "", setup: str = "") -> Task:
    return Task(title, dedent(model).strip(), dedent(data).strip(), loss, right, setup)


CLASSES = "(output.argmax(dim=1) == y).sum().item()"
POINTS = """
    def make_data(count):
        y = torch.arange(count) * 3 // count
        return torch.randn(count, 6) + 0.7 * y[:, None], y
"""
TASKS = {
    "points": task(
        "Classify points with a small network.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(
                    nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2)
                )
                self.head = nn.Linear(16, 3)

            def forward(self, x):
                x = self.body(x)
                return self.head(x)
        """,
        POINTS,
        "F.cross_entropy({}, y)",
        CLASSES,
    ),
    "layers": task(
        "Classify points with a list of layers.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.ModuleList([nn.Linear(6, 16), nn.Linear(16, 16)])
                self.norm = nn.LayerNorm(16)
                self.dropout = nn.Dropout(0.1)
                self.head = nn.Linear(16, 3)

            def forward(self, x):
                for layer in self.hidden:
                    x = F.relu(layer(x))
                x = self.dropout(self.norm(x))
                return self.head(x)
        """,
        POINTS,
        "criterion({}, y)",
        CLASSES,
        "criterion = nn.CrossEntropyLoss(label_smoothing=0.05)",
    ),
    "images": task(
        "Classify small images with a convolutional network.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.features = nn.Sequential(
                    nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)
                )
                self.dropout = nn.Dropout(0.25)
                self.head = nn.Linear(6 * 4 * 4, 4)

            def forward(self, x):
                x = self.features(x).flatten(1)
                x = self.dropout(x)
                return self.head(x)
        """,
        """
        def make_data(count):
            y = torch.arange(count) * 4 // count
            x = 60 + 60 * torch.rand(count, 1, 8, 8)
            for number, label in enumerate(y.tolist()):
                x[number, :, 2 * label : 2 * label + 2] += 100
            return x, y
        """,
        "criterion({}, y)",
        CLASSES,
        "criterion = nn.CrossEntropyLoss()",
    ),
    "nll": task(
        "Classify points by their log-probabilities.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(6, 24)
                self.dropout = nn.Dropout(0.2)
                self.second = nn.Linear(24, 3)

            def forward(self, x):
                x = self.dropout(torch.tanh(self.first(x)))
                x = self.second(x)
                return F.log_softmax(x, dim=1)
        """,
        POINTS,
        "F.nll_loss({}, y)",
        CLASSES,
    ),
    "normalised": task(
        "Classify points; cross-entropy leaves log-probabilities as they are.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3))

            def forward(self, x):
                x = self.layers(x)
                return x.log_softmax(dim=1)
        """,
        POINTS,
        "F.cross_entropy({}, y)",
        CLASSES,
    ),
    "binary": task(
        "Tell two kinds of points apart with one logit.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.1))
                self.head = nn.Linear(16, 1)

            def forward(self, x):
                x = self.body(x)
                return self.head(x)
        """,
        """
        def make_data(count):
            y = (torch.arange(count) >= count // 2).float().unsqueeze(1)
            return torch.randn(count, 5) + y, y
        """,
        "criterion({}, y)",
        "((output > 0) == (y > 0.5)).sum().item()",
        "criterion = nn.BCEWithLogitsLoss()",
    ),
    "regression": task(
        "Fit a curve: outputs and targets are (N, 1).",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(3, 24)
                self.dropout = nn.Dropout(0.05)
                self.second = nn.Linear(24, 1)

            def forward(self, x):
                x = self.dropout(F.relu(self.first(x)))
                return self.second(x)
        """,
        """
        def make_data(count):
            x = torch.randn(count, 3)
            y = x.sin().sum(dim=1, keepdim=True) + 0.1 * torch.randn(count, 1)
            return x, y
        """,
        "F.mse_loss({}, y)",
    ),
    "segmentation": task(
        "Give each pixel a class: outputs (N, C, H, W), targets (N, H, W).",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(
                    nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.1)
                )
                self.head = nn.Conv2d(8, 3, 1)

            def forward(self, x):
                x = self.body(x)
                return self.head(x)
        """,
        """
        def make_data(count):
            y = torch.randint(3, (count, 8, 8))
            noise = torch.randn(count, 2, 8, 8)
            return torch.stack([y == 1, y == 2], dim=1).float() + 0.5 * noise, y
        """,
        "F.cross_entropy({}, y)",
    ),
    "recurrent": task(
        "Classify sequences by the last state of a GRU.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru = nn.GRU(3, 16, batch_first=True)
                self.dropout = nn.Dropout(0.2)
                self.head = nn.Linear(16, 2)

            def forward(self, x):
                _, x = self.gru(x)
                x = self.dropout(x[-1])
                return self.head(x)
        """,
        """
        def make_data(count):
            y = torch.arange(count) * 2 // count
            steps = torch.linspace(-1, 1, 7)[None, :, None] * (2 * y - 1)[:, None, None]
            return steps + torch.randn(count, 7, 3), y
        """,
        "F.cross_entropy({}, y)",
        CLASSES,
    ),
    "attention": task(
        "Classify sequences with a transformer layer.",
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.inputs = nn.Linear(3, 16)
                self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
                self.head = nn.Linear(16, 2)

            def forward(self, x):
                x = self.inputs(x)
                x = self.encoder(x).mean(dim=1)
                return self.head(x)
        """,
        """
        def make_data(count):
            y = torch.arange(count) * 2 // count
            return torch.randn(count, 5, 3) + y[:, None, None], y
        """,
        "F.cross_entropy({}, y)",
        CLASSES,
    ),
}

# --------------------------------------------------------------------------- the choices

DATA = ("drawn twice", "split", "dataset", "batches")
LOOPS = (
    *("plain", "zero last", "set to zero", "clipped", "accumulated", "accumulated and clipped"),
    *("autocast", "scaled", "scaler off", "functional", "forward called", "compiled"),
)
STRUCTURES = ("script", "functions", "class")
VALIDATIONS = ("with", "decorator", "inference mode", "restores", "training too")
SCHEDULES = ("none", "step", "cosine", "one cycle", "warm-up", "plateau")
KEEPING = ("nothing", "best", "weights", "checkpoint", "average")
OPTIMIZERS = {
    "momentum": "torch.optim.SGD({}, lr=0.05, momentum=0.9)",
    "adam": "torch.optim.Adam({}, lr=0.01)",
    "adamw": "torch.optim.AdamW({}, lr=0.01, weight_decay=0.01)",
    "rmsprop": "torch.optim.RMSprop({}, lr=0.003)",
}
LOGS = ("sum", "sometimes", "detached", "list")


@dataclass(frozen=True)
class Choice:
    """What a composed script is made of."""

    task: str = "points"
    data: str = "drawn twice"
    loop: str = "plain"
    structure: str = "script"
    validation: str = "with"
    schedule: str = "none"
    keeping: str = "nothing"
    optimizer: str = "momentum"
    log: str = "sum"
    seed: int = 0


OPTIONS: dict[str, tuple[object, ...]] = {
    "task": tuple(TASKS),
    "data": DATA,
    "loop": LOOPS,
    "structure": STRUCTURES,
    "validation": VALIDATIONS,
    "schedule": SCHEDULES,
    "keeping": KEEPING,
    "optimizer": tuple(OPTIMIZERS),
    "log": LOGS,
    "seed": tuple(range(5)),
}

# --------------------------------------------------------------------------- the text

IMPORTS = {
    r"\bcopy\.": "import copy",
    r"\bPath\(": "from pathlib import Path",
    r"\btorch\.": "import torch",
    r"\bF\.": "import torch.nn.functional as F",
    r"\bnn\.": "from torch import nn",
    r"\bfunctional_call\(": "from torch.func import functional_call",
    r"\bCosineAnnealingLR\(": "from torch.optim.lr_scheduler import CosineAnnealingLR",
    r"\bLambdaLR\(": "from torch.optim.lr_scheduler import LambdaLR",
    r"\bOneCycleLR\(": "from torch.optim.lr_scheduler import OneCycleLR",
    r"\bReduceLROnPlateau\(": "from torch.optim.lr_scheduler import ReduceLROnPlateau",
    r"\bStepLR\(": "from torch.optim.lr_scheduler import StepLR",
    r"\bAveragedModel\(": (
        "from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn"
    ),
    r"DataLoader\(": "",  # whose line has several names, below
}
UTILITIES = ("DataLoader", "Dataset", "TensorDataset", "random_split")


def imports(text: str) -> str:
    """Return the lines of imports that a text needs, in isort's order."""
    lines = [line for pattern, line in IMPORTS.items() if line and re.search(pattern, text)]
    if names := [name for name in UTILITIES if re.search(rf"\b{name}\b", text)]:
        lines.append(f"from torch.utils.data import {', '.join(names)}")
    ours = [line for line in lines if " torch" in line or "nn" in line]
    theirs = [line for line in lines if line not in ours]
    return "\n".join(theirs) + "\n" * 2 * bool(theirs) + "\n".join(ours)


SPLIT = """
x, y = make_data({both})
data = TensorDataset(x, y)
train_set, test_set = random_split(
    data, [{train}, {test}], generator=torch.Generator().manual_seed(1)
)
"""
TWICE = """
train_set = TensorDataset(*make_data({train}))
test_set = TensorDataset(*make_data({test}))
"""
DATASET = """
class Examples(Dataset):
    def __init__(self, x, y, mean, std):
        self.x, self.y, self.mean, self.std = x, y, mean, std

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        x = (self.x[index] - self.mean) / self.std
        return x, self.y[index]


train_x, train_y = make_data({train})
mean, std = train_x.mean(), train_x.std()
train_set = Examples(train_x, train_y, mean, std)
test_set = Examples(*make_data({test}), mean, std)
"""
BATCHES = """
class Batches:
    def __init__(self, x, y, size, shuffle=False):
        self.x, self.y, self.size, self.shuffle = x, y, size, shuffle

    def __len__(self):
        return -(-len(self.y) // self.size)

    def __iter__(self):
        order = torch.randperm(len(self.y)) if self.shuffle else torch.arange(len(self.y))
        for rows in order.split(self.size):
            yield self.x[rows], self.y[rows]


train_loader = Batches(*make_data({train}), size=BATCH, shuffle=True)
test_loader = Batches(*make_data({test}), size=BATCH)
"""
LOADERS = """
train_loader = DataLoader(train_set, batch_size=BATCH, shuffle=True)
test_loader = DataLoader(test_set, batch_size=BATCH)
"""


def data_text(c: Choice) -> str:
    # The last batch is smaller, except where gradients are accumulated over equal batches.
    train, test = (96 if c.loop.startswith("accumulated") else 90), 40
    made = dedent(TASKS[c.task].data)
    if c.task == "images":  # pixels of 0 to 255 need to be normalised once
        made = (
            made.replace("return x, y", "return (x - 120) / 60, y") if c.data != "dataset" else made
        )
    text = {"split": SPLIT, "drawn twice": TWICE, "dataset": DATASET, "batches": BATCHES}[c.data]
    text = text.format(train=train, test=test, both=train + test).strip()
    loaders = "" if c.data == "batches" else LOADERS.rstrip()
    gap = "\n\n\n"
    return made + gap + text + loaders


SCHEDULERS = {
    "step": "StepLR({o}, step_size=2, gamma=0.5)",
    "cosine": "CosineAnnealingLR({o}, T_max=steps)",
    "one cycle": "OneCycleLR({o}, max_lr=0.02, total_steps=steps)",
    "warm-up": "LambdaLR({o}, lambda step: min(1.0, (step + 1) / 6))",
    "plateau": "ReduceLROnPlateau({o}, factor=0.5, patience=1)",
}
BY_BATCH = {"cosine", "one cycle", "warm-up"}


def call_of(c: Choice, s: str) -> str:
    """Return the call of the model on x; `s` is "self." in a class."""
    if c.loop == "functional":
        return f"functional_call({s}model, weights, (x,))"
    return f"{s}model.forward(x)" if c.loop == "forward called" else f"{s}model(x)"


def step_text(c: Choice, s: str) -> str:
    """Return what happens to a batch, up to the step of the schedule."""
    loss = TASKS[c.task].loss.format(call_of(c, s))
    clip = f"nn.utils.clip_grad_norm_({s}model.parameters(), max_norm=0.1)\n"
    zero, step = f"{s}optimizer.zero_grad()\n", f"{s}optimizer.step()\n"
    rate = f"{s}scheduler.step()\n" if c.schedule in BY_BATCH else ""
    average = f"{s}average.update_parameters({s}model)\n" if c.keeping == "average" else ""
    after = rate + average
    if c.loop.startswith("accumulated"):
        clip = clip if "clipped" in c.loop else ""
        return (
            f"loss = {loss}\n(loss / ACCUMULATE).backward()\n"
            f"if (i + 1) % ACCUMULATE == 0:\n{indent(clip + step + zero + after, ' ' * 4)}"
        )
    if c.loop in ("scaled", "scaler off", "autocast"):
        forward = f'with torch.autocast("cpu", dtype=torch.bfloat16):\n    loss = {loss}\n'
        if c.loop == "autocast":
            return zero + forward + "loss.backward()\n" + step + after
        return (
            f"{zero}{forward}{s}scaler.scale(loss).backward()\n"
            f"{s}scaler.unscale_({s}optimizer)\n{clip}"
            f"{s}scaler.step({s}optimizer)\n{s}scaler.update()\n{after}"
        )
    clip = clip if c.loop == "clipped" else ""
    zero += f"weights = dict({s}model.named_parameters())\n" if c.loop == "functional" else ""
    if c.loop == "zero last":
        return f"loss = {loss}\nloss.backward()\n{clip}{step}{zero}{after}"
    zero = zero.replace("()", "(set_to_none=False)", 1) if c.loop == "set to zero" else zero
    return f"{zero}loss = {loss}\nloss.backward()\n{clip}{step}{after}"


def log_text(c: Choice) -> tuple[str, str, str]:
    """Return the lines of a log before the loop and in it, and what is printed after it."""
    if c.log == "sum":
        return (
            "total, count = 0.0, 0\n",
            ("total += loss.item() * len(y)\ncount += len(y)\n"),
            "total / count",
        )
    if c.log == "detached":
        return (
            "total, count = torch.zeros(()), 0\n",
            ("total += loss.detach() * len(y)\ncount += len(y)\n"),
            "total / count",
        )
    if c.log == "list":
        return "losses = []\n", "losses.append(loss.item())\n", "losses[-1]"
    return (
        "",
        ('if i % 100 == 0:\n    print(f"batch {i}: loss {loss.item():.4f}")\n'),
        "loss.item()",
    )


def epoch_text(c: Choice, s: str, loader: str) -> tuple[str, str]:
    """Return the text of one epoch of training, and the expression of its loss."""
    before, inside, result = log_text(c)
    numbered = c.loop.startswith("accumulated") or c.log == "sometimes"
    head = f"for i, (x, y) in enumerate({loader}):" if numbered else f"for x, y in {loader}:"
    mode = "" if c.validation == "restores" else f"{s}model.train()\n"
    body = indent(step_text(c, s) + inside, " " * 4)
    return f"{mode}{before}{head}\n{body}", result


def evaluate_text(c: Choice, s: str) -> str:
    """Return the function that evaluates, as a function or, with "self.", as a method."""
    wanted = TASKS[c.task]
    loss = wanted.loss.format("output")
    right = "right" if wanted.right else ""
    body = "output = model(x)\n"
    body += f"total += {loss}.item() * len(y)\n"
    body += f"right += {wanted.right}\n" if right else ""
    body += "count += len(y)\n"
    names = "total, right, count = 0.0, 0, 0" if right else "total, count = 0.0, 0"
    loop = "for x, y in loader:\n" + indent(body, " " * 4)
    if c.validation == "inference mode":
        loop = "with torch.inference_mode():\n" + indent(loop, " " * 4)
    elif c.validation != "decorator":
        loop = "with torch.no_grad():\n" + indent(loop, " " * 4)
    back = "model.train()\n" if c.validation == "restores" else ""
    result = "return total / count, right / count\n" if right else "return total / count\n"
    inner = f"model.eval()\n{names}\n{loop}{back}{result}"
    decorator = "@torch.no_grad()\n" if c.validation == "decorator" else ""
    if s:
        return f"{decorator}def evaluate(self, model, loader):\n{indent(inner, ' ' * 4)}"
    return f"{decorator}def evaluate(model, loader):\n{indent(inner, ' ' * 4)}"


def built(c: Choice, s: str) -> str:
    """Return the lines that build the model, its optimizer, and what goes with them."""
    net, lines = f"{s}model", [f"{s}model = Net()"]
    if c.loop == "compiled":
        net = f"{s}net"
        lines = [f"{s}net = Net()", f'{s}model = torch.compile({s}net, backend="eager")']
    lines.append(f"{s}optimizer = {OPTIMIZERS[c.optimizer].format(net + '.parameters()')}")
    if c.schedule in ("cosine", "one cycle"):
        accumulated = c.loop.startswith("accumulated")
        batches = "(len(train_loader) // ACCUMULATE)" if accumulated else "len(train_loader)"
        lines.append(f"steps = EPOCHS * {batches}")
    if c.schedule != "none":
        lines.append(f"{s}scheduler = {SCHEDULERS[c.schedule].format(o=f'{s}optimizer')}")
    if c.loop in ("scaled", "scaler off"):
        off = ", enabled=False" if c.loop == "scaler off" else ""
        lines.append(f'{s}scaler = torch.amp.GradScaler("cpu"{off})')
    if c.keeping == "average":
        lines.append(f"{s}average = AveragedModel({net}, multi_avg_fn=get_ema_multi_avg_fn(0.9))")
    return "\n".join(lines) + "\n"


def stateful(c: Choice) -> list[str]:
    """Return the parts, besides the model, whose state a checkpoint holds."""
    scheduler = ["scheduler"] if c.schedule != "none" else []
    return ["optimizer", *scheduler, *(["scaler"] if c.loop == "scaled" else [])]


def after_epoch(c: Choice, s: str, result: str) -> str:
    """Return what follows the batches of an epoch: validation, schedule, keeping, a line."""
    net = f"{s}net" if c.loop == "compiled" else f"{s}model"
    right = bool(TASKS[c.task].right)
    names = "test_loss, accuracy" if right else "test_loss"
    evaluate = f"{s}evaluate({s}model, test_loader)"
    text = ""
    if c.schedule == "step":
        text += f"{s}scheduler.step()\n"
    shown = 'f"{epoch}: {' + result + ":.3f}, test {test_loss:.3f}"
    shown += ", {accuracy:.3f} right" if right else ""
    text += f"{names} = {evaluate}\n"
    if c.schedule == "plateau":
        text += f"{s}scheduler.step(test_loss)\n"
    text += f'print({shown}")\n'
    if c.validation == "training too":
        text += f'print("on the training data:", {s}evaluate({s}model, train_loader))\n'
    if c.keeping == "best":
        text += (
            "if test_loss < best_loss:\n    best_loss = test_loss\n"
            f"    best = copy.deepcopy({net}.state_dict())\n"
        )
    elif c.keeping == "weights":
        text += (
            "if test_loss < best_loss:\n    best_loss = test_loss\n"
            f'    torch.save({net}.state_dict(), "best.pt")\n'
        )
    elif c.keeping == "checkpoint":
        kept = "".join(f'    "{part}": {s}{part}.state_dict(),\n' for part in stateful(c))
        text += (
            f'checkpoint = {{\n    "epoch": epoch,\n    "model": {net}.state_dict(),\n{kept}}}\n'
            "torch.save(checkpoint, CHECKPOINT)\n"
        )
    return text


def before_epochs(c: Choice, s: str) -> str:
    """Return what stands before the epochs: the best loss so far, or a checkpoint's loading."""
    net = f"{s}net" if c.loop == "compiled" else f"{s}model"
    if c.keeping in ("best", "weights"):
        best = ', best = float("inf"), None' if c.keeping == "best" else ' = float("inf")'
        return f"best_loss{best}\n"
    if c.keeping == "checkpoint":
        return (
            "start = 0\nif CHECKPOINT.exists():\n"
            "    checkpoint = torch.load(CHECKPOINT, weights_only=True)\n"
            f'    {net}.load_state_dict(checkpoint["model"])\n'
            + "".join(f'    {s}{p}.load_state_dict(checkpoint["{p}"])\n' for p in stateful(c))
            + '    start = checkpoint["epoch"] + 1\n'
        )
    return ""


def after_epochs(c: Choice, s: str) -> str:
    """Return what is done with the weights that were kept."""
    net = f"{s}net" if c.loop == "compiled" else f"{s}model"
    evaluate = f"{s}evaluate({s}model, test_loader)"
    if c.keeping == "best":
        return f'{net}.load_state_dict(best)\nprint("best:", {evaluate})\n'
    if c.keeping == "weights":
        return (
            f'{net}.load_state_dict(torch.load("best.pt", weights_only=True))\n'
            f'print("best:", {evaluate})\n'
        )
    if c.keeping == "average":
        return (
            f"update_bn(train_loader, {s}average)\n"
            f'print("average:", {s}evaluate({s}average, test_loader))\n'
        )
    return f'torch.save({net}.state_dict(), "final.pt")\n' if c.keeping == "nothing" else ""


def compose(c: Choice) -> Program:
    """Write the script of a choice."""
    s = "self." if c.structure == "class" else ""
    wanted = TASKS[c.task]
    constants = "BATCH, EPOCHS = 16, 3\n"
    constants += "ACCUMULATE = 3\n" if c.loop.startswith("accumulated") else ""
    constants += 'CHECKPOINT = Path("checkpoint.pt")\n' if c.keeping == "checkpoint" else ""
    constants += wanted.setup + "\n" if wanted.setup else ""
    start = "start, " if c.keeping == "checkpoint" else ""
    epochs = f"for epoch in range({start}EPOCHS):\n"
    resumes = c.keeping == "checkpoint" and c.structure != "script"
    if resumes:  # the run is stopped and resumed
        epochs = f"for epoch in range({start}epochs):\n"

    if c.structure == "class":
        epoch, result = epoch_text(c, s, "train_loader")
        fit = before_epochs(c, s) + epochs + indent(epoch + after_epoch(c, s, result), " " * 4)
        fit += after_epochs(c, s)
        arguments = "self, train_loader, test_loader" + (", epochs" if resumes else "")
        middle = (
            f"class Trainer:\n    def __init__(self):\n{indent(built(c, s), ' ' * 8)}\n"
            f"    def fit({arguments}):\n{indent(fit, ' ' * 8)}\n"
            f"{indent(evaluate_text(c, s), ' ' * 4)}"
        )
        call = "trainer = Trainer()\ntrainer.fit(train_loader, test_loader"
        end = f"{call}, epochs=2)\n{call}, epochs=EPOCHS)\n" if resumes else f"{call})\n"
    elif c.structure == "functions":
        epoch, result = epoch_text(c, s, "loader")
        extra = [name for name in ("scheduler", "scaler", "average") if f"{name}." in epoch]
        names = ", ".join(["model", "optimizer", *extra])
        returned = indent(epoch, " " * 4) + f"    return {result}\n"
        train = f"def train(loader, {names}):\n{returned}\n\n"
        run = built(c, s) + before_epochs(c, s) + epochs
        run += f"    train_loss = train(train_loader, {names})\n"
        run += indent(after_epoch(c, s, "train_loss"), " " * 4) + after_epochs(c, s)
        head = "def main(epochs):\n" if resumes else "def main():\n"
        middle = f"{train}{evaluate_text(c, s)}\n\n{head}{indent(run, ' ' * 4)}"
        calls = "    main(epochs=2)\n    main(epochs=EPOCHS)\n" if resumes else "    main()\n"
        end = f'if __name__ == "__main__":\n{calls}'
    else:
        epoch, result = epoch_text(c, s, "train_loader")
        middle = evaluate_text(c, s)
        end = built(c, s) + before_epochs(c, s) + epochs
        end += indent(epoch + after_epoch(c, s, result), " " * 4) + after_epochs(c, s)

    body = f"torch.manual_seed({c.seed})\n{constants}\n\n{wanted.model}\n\n\n{data_text(c)}\n"
    body += f"\n\n{middle}\n\n{end}"
    text = f'"""{wanted.title}"""\n\n{imports(body)}\n\n{body}'
    name = "-".join(str(getattr(c, field.name)).replace(" ", "_") for field in fields(c))
    return Program(name, text)


# --------------------------------------------------------------------------- samples

choices = st.builds(Choice, **{name: st.sampled_from(of) for name, of in OPTIONS.items()})


def programs() -> st.SearchStrategy[Program]:
    """Draw a correct script: three in four are composed, the others are of a rarer kind."""
    composed = choices.map(compose)
    return st.one_of(composed, composed, composed, st.sampled_from(list(KINDS.values())))


def sample(count: int, seed: int = 0) -> list[Program]:
    """Return composed scripts in which every option occurs about equally often."""
    generator = random.Random(seed)
    columns = {}
    for name, options in OPTIONS.items():
        column = list(itertools.islice(itertools.cycle(options), count))
        generator.shuffle(column)
        columns[name] = column
    rows = zip(*columns.values(), strict=True)
    return [compose(Choice(*row)) for row in rows]
