"""Run the calls of old courses, and record what this version of torch says to each.

    python docs/rot.py

It writes docs/results/rot-<torch version>.json: for each old call whether it raises, warns, gives
another result than it used to, or runs, with the words; and whether its replacement runs without a
word. Nothing is fetched: no call needs the network.
"""

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from record import clean_text, facts

RESULTS = Path(__file__).parent / "results"
PREAMBLE = """
import io
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models, transforms

torch.manual_seed(0)
x, y = torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.tensor([1, 0])
model = nn.Linear(2, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(TensorDataset(x, y), batch_size=1)
"""


@dataclass(frozen=True)
class Call:
    """An old call, and what is written in its place.

    `then` is what it printed in its time, where that is what has changed.
    """

    title: str
    old: str
    new: str
    why: str
    then: str = ""


CALLS = {
    "volatile": Call(
        "Inference with volatile variables",
        "Variable(x, volatile=True)",
        "with torch.no_grad():\n    model(x)",
        "Variables and tensors are one since torch 0.4, and no_grad does what volatile did.",
    ),
    "variable": Call(
        "Variables around tensors",
        "model(Variable(x))",
        "model(x)",
        "Variable returns the tensor that it is given; it can be left out.",
    ),
    "data-0": Call(
        "The number in a loss",
        "loss = F.cross_entropy(model(x), y)\nprint(loss.data[0])",
        "loss = F.cross_entropy(model(x), y)\nprint(loss.item())",
        "A loss is a tensor of no dimension since torch 0.4, which cannot be indexed.",
    ),
    "next": Call(
        "The first batch of a loader",
        "images, labels = iter(loader).next()",
        "images, labels = next(iter(loader))",
        "Iterators of Python 3 have no next method.",
    ),
    "scale": Call(
        "Resizing an image",
        "transforms.Scale(256)",
        "transforms.Resize(256)",
        "Renamed, since it resizes.",
    ),
    "random-sized-crop": Call(
        "A random crop, resized",
        "transforms.RandomSizedCrop(224)",
        "transforms.RandomResizedCrop(224)",
        "Renamed together with Scale.",
    ),
    "pretrained": Call(
        "Pretrained or untrained",
        "models.squeezenet1_1(pretrained=False)",
        "models.squeezenet1_1(weights=None)",
        "A network has several sets of weights by now: weights names one. pretrained=True, which "
        "would download here, is the first of them and not the best.",
    ),
    "size-average": Call(
        "Summing the losses",
        "nn.CrossEntropyLoss(size_average=False)(model(x), y)",
        'nn.CrossEntropyLoss(reduction="sum")(model(x), y)',
        "reduction says in one word what size_average and reduce said in two.",
    ),
    "reduce": Call(
        "A loss for each example",
        "F.nll_loss(F.log_softmax(model(x), dim=1), y, reduce=False)",
        'F.nll_loss(F.log_softmax(model(x), dim=1), y, reduction="none")',
        "reduction says in one word what size_average and reduce said in two.",
    ),
    "functional-sigmoid": Call(
        "Sigmoid as a function",
        "F.sigmoid(x)",
        "torch.sigmoid(x)",
        "A function of tensors, which moved to torch.",
    ),
    "functional-tanh": Call(
        "Tanh as a function",
        "F.tanh(x)",
        "torch.tanh(x)",
        "A function of tensors, which moved to torch.",
    ),
    "softmax-dim": Call(
        "Softmax without a dimension",
        "F.softmax(x)",
        "F.softmax(x, dim=1)",
        "The dimension was guessed from the rank: 1 for a matrix, but 0 for a tensor of rank 3.",
    ),
    "log-softmax-dim": Call(
        "LogSoftmax without a dimension",
        "nn.LogSoftmax()(x)",
        "nn.LogSoftmax(dim=1)(x)",
        "The dimension was guessed from the rank.",
    ),
    "load-model": Call(
        "Loading a pickled model",
        "file = io.BytesIO()\ntorch.save(model, file)\nfile.seek(0)\ntorch.load(file)",
        "file = io.BytesIO()\ntorch.save(model.state_dict(), file)\nfile.seek(0)\n"
        "model.load_state_dict(torch.load(file))",
        "A pickle can run any code. Since torch 2.6 load takes only weights unless told otherwise, "
        "so that a state_dict is what to save.",
    ),
    "byte-mask": Call(
        "A mask of bytes",
        "x[(x > 0).byte()]",
        "x[x > 0]",
        "Comparisons gave bytes until torch 1.2; now they give booleans, which are masks.",
    ),
    "invert-mask": Call(
        "The opposite of a mask",
        "1 - (x > 0)",
        "~(x > 0)",
        "Booleans have no subtraction, as bytes had.",
    ),
    "mean-of-mask": Call(
        "The share of right predictions",
        "(model(x).max(1)[1] == y).mean()",
        "(model(x).max(1)[1] == y).float().mean()",
        "A mean needs floating-point numbers.",
    ),
    "integer-division": Call(
        "Dividing integers",
        "print(torch.tensor(3) / torch.tensor(2))",
        'print(torch.div(torch.tensor(3), torch.tensor(2), rounding_mode="floor"))',
        "A single slash is true division since torch 1.6, as in Python 3.",
        then="tensor(1)",
    ),
    "full-of-integers": Call(
        "A tensor full of one integer",
        "print(torch.full((2,), 1).dtype)",
        "print(torch.full((2,), 1.0).dtype)",
        "full infers the dtype from its value since torch 1.7; it used to be float32.",
        then="torch.float32",
    ),
    "float-tensor": Call(
        "Converting with a tensor type",
        "y.type(torch.FloatTensor)",
        "y.float()",
        "It still runs, but means the CPU: on another device it moves the tensor.",
    ),
    "default-tensor-type": Call(
        "Changing the default type",
        "torch.set_default_tensor_type(torch.FloatTensor)",
        "torch.set_default_dtype(torch.float32)",
        "dtype and device are set apart, the latter by set_default_device.",
    ),
    "numpy-float": Call(
        "Arrays of numpy's float",
        "torch.from_numpy(np.zeros(2, dtype=np.float))",
        "torch.from_numpy(np.zeros(2, dtype=np.float64))",
        "numpy 1.24 dropped the names that only repeated Python's.",
    ),
    "numpy-no-copy": Call(
        "An array that shares memory",
        "print(np.array(torch.ones(2), copy=False))",
        "print(np.asarray(torch.ones(2)))",
        "In numpy 2 copy=False means never, and asks the tensor in a way it may not know.",
    ),
    "zeroed-gradients": Call(
        "Gradients after zero_grad",
        "F.cross_entropy(model(x), y).backward()\noptimizer.zero_grad()\nprint(model.bias.grad)",
        "F.cross_entropy(model(x), y).backward()\noptimizer.zero_grad(set_to_none=False)\n"
        "print(model.bias.grad)",
        "zero_grad leaves None since torch 2.0, which saves memory and skips the parameter.",
        then="tensor([0., 0.])",
    ),
    "scheduler-first": Call(
        "The scheduler before the optimizer",
        "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)\n"
        "scheduler.step()\noptimizer.step()",
        "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)\n"
        "optimizer.step()\nscheduler.step()",
        "Since torch 1.1 the scheduler comes last; first, it skips the first rate.",
    ),
    "get-lr": Call(
        "Asking for the learning rate",
        "torch.optim.lr_scheduler.StepLR(optimizer, 1).get_lr()",
        "torch.optim.lr_scheduler.StepLR(optimizer, 1).get_last_lr()",
        "get_lr computes the next rate, and is for the scheduler's own use.",
    ),
    "async": Call(
        "Copying without waiting",
        "x.cuda(async=True)",
        'x.to("cpu", non_blocking=True)',
        "async is a keyword since Python 3.7: the file does not even compile.",
    ),
    "resize": Call(
        "resize without an underscore",
        "x.resize(1, 4)",
        "x.reshape(1, 4)",
        "resize ignores strides and may invent elements; reshape does neither.",
    ),
    "clip-grad-norm": Call(
        "Clipping gradients",
        "F.cross_entropy(model(x), y).backward()\nnn.utils.clip_grad_norm(model.parameters(), 1)",
        "F.cross_entropy(model(x), y).backward()\nnn.utils.clip_grad_norm_(model.parameters(), 1)",
        "What writes in place carries an underscore.",
    ),
    "init-normal": Call(
        "Initialising weights",
        "nn.init.normal(model.weight, std=0.01)",
        "nn.init.normal_(model.weight, std=0.01)",
        "What writes in place carries an underscore.",
    ),
    "add-scaled": Call(
        "Adding a multiple",
        "x.add_(0.5, torch.ones(2, 2))",
        "x.add_(torch.ones(2, 2), alpha=0.5)",
        "The factor is an argument of its own name.",
    ),
    "upsample": Call(
        "Enlarging images",
        "F.upsample(torch.ones(1, 1, 2, 2), scale_factor=2)",
        "F.interpolate(torch.ones(1, 1, 2, 2), scale_factor=2)",
        "Renamed, since it makes images smaller as well.",
    ),
    "range": Call(
        "A range with its end",
        "torch.range(0, 3)",
        "torch.arange(0, 4)",
        "arange leaves the end out, as Python's range does.",
    ),
    "old-function": Call(
        "An operation with a backward of its own",
        "class Double(torch.autograd.Function):\n"
        "    def forward(self, x):\n        return 2 * x\n\n"
        "    def backward(self, grad):\n        return 2 * grad\n\n\nDouble()(x)",
        "class Double(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        return 2 * x\n\n"
        "    @staticmethod\n    def backward(ctx, grad):\n        return 2 * grad\n\n\n"
        "Double.apply(x)",
        "What is kept for the backward lies in a context, since the class is never instantiated.",
    ),
    "autocast": Call(
        "Mixed precision",
        "with torch.cuda.amp.autocast(enabled=False):\n    model(x)",
        'with torch.autocast("cpu", enabled=False):\n    model(x)',
        "autocast takes the type of device as an argument.",
    ),
}


def run(code: str) -> tuple[str, str, str]:
    """Return how a piece of code ends (raises, warns or runs), in which words, what it prints."""
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("ignore")
        names: dict[str, object] = {"__name__": "old"}
        exec(PREAMBLE, names)
        warnings.simplefilter("always")
        try:
            exec(code, names)
        except Exception as error:
            return "raises", words(error), printed.getvalue().strip()
    outcome = "warns" if caught else "runs"
    return outcome, words(caught[0].message) if caught else "", printed.getvalue().strip()


def words(error: object) -> str:
    """Return the kind of an error or a warning, and its first sentence or two.

    >>> words(ValueError("no such thing"))
    'ValueError: no such thing'
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300].rpartition(' ')[0]} …"
    return f"{type(error).__name__}: {clean_text(text)}"


def judge(call: Call) -> dict[str, str]:
    """Run an old call and its replacement."""
    outcome, message, printed = run(call.old)
    if outcome == "runs" and call.then and printed != call.then:
        outcome, message = "another result", f"{printed}, where it used to be {call.then}"
    replacement, complaint, _ = run(call.new)
    return {
        "outcome": outcome,
        "message": message,
        "replacement": replacement,
        "complaint": complaint,
    }


def record() -> Iterator[str]:
    """Write the record of this version of torch, and yield what is wrong with the replacements."""
    torch.set_warn_always(True)
    calls = {name: judge(call) for name, call in CALLS.items()}
    found = facts(["cpu"], "")
    found = {key: found[key] for key in ("date", "torch", "torchvision", "numpy", "python")}
    version = found["torch"].partition("+")[0]
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"rot-{version}.json"
    text = json.dumps({"environment": found, "calls": calls}, indent=1, ensure_ascii=False)
    file.write_text(f"{text}\n", encoding="utf-8")
    for name, call in calls.items():
        print(f"{name}: {call['outcome']} {call['message']}")
        if call["replacement"] != "runs":
            yield f"the replacement of {name} {call['replacement']}: {call['complaint']}"


if __name__ == "__main__":
    sys.exit("\n".join(record()) or None)
