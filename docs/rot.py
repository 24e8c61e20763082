"""Run the calls of old courses, and record how this version of torch responds.

    python docs/rot.py

It writes docs/results/rot-<torch version>.json: whether each old call raises, warns, gives another
result than it used to, or runs, with the message, and whether its replacement runs without a
warning. No call needs the network.
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
from record import facts

from dlconcepts.testing.records import clean_text

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
    """An old call and its replacement.

    `then` is what the old call printed when the course was written, if that has changed.
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
        "Since torch 0.4, a Variable is a tensor. `no_grad` replaces volatile.",
    ),
    "variable": Call(
        "Variables around tensors",
        "model(Variable(x))",
        "model(x)",
        "`Variable` returns the tensor you pass to it, so drop it.",
    ),
    "data-0": Call(
        "The value of a loss",
        "loss = F.cross_entropy(model(x), y)\nprint(loss.data[0])",
        "loss = F.cross_entropy(model(x), y)\nprint(loss.item())",
        "Since torch 0.4, a loss is a tensor without dimensions, which cannot be indexed.",
    ),
    "next": Call(
        "The first batch of a loader",
        "images, labels = iter(loader).next()",
        "images, labels = next(iter(loader))",
        "Iterators have no `next` method in Python 3.",
    ),
    "scale": Call(
        "Resizing an image",
        "transforms.Scale(256)",
        "transforms.Resize(256)",
        "`Scale` was renamed to `Resize`, because it resizes.",
    ),
    "random-sized-crop": Call(
        "A random crop at a new size",
        "transforms.RandomSizedCrop(224)",
        "transforms.RandomResizedCrop(224)",
        "It was renamed together with `Scale`.",
    ),
    "pretrained": Call(
        "Pretrained or untrained",
        "models.squeezenet1_1(pretrained=False)",
        "models.squeezenet1_1(weights=None)",
        "A network now has several sets of weights, and `weights` names one. `pretrained=True` is "
        "the oldest set, not the best.",
    ),
    "size-average": Call(
        "Summing the losses",
        "nn.CrossEntropyLoss(size_average=False)(model(x), y)",
        'nn.CrossEntropyLoss(reduction="sum")(model(x), y)',
        "`reduction` replaces both `size_average` and `reduce`.",
    ),
    "reduce": Call(
        "A loss for each example",
        "F.nll_loss(F.log_softmax(model(x), dim=1), y, reduce=False)",
        'F.nll_loss(F.log_softmax(model(x), dim=1), y, reduction="none")',
        "`reduction` replaces both `size_average` and `reduce`.",
    ),
    "functional-sigmoid": Call(
        "Sigmoid as a function",
        "F.sigmoid(x)",
        "torch.sigmoid(x)",
        "`sigmoid` moved to torch, where it is also a method of tensors.",
    ),
    "functional-tanh": Call(
        "Tanh as a function",
        "F.tanh(x)",
        "torch.tanh(x)",
        "`tanh` moved to torch, where it is also a method of tensors.",
    ),
    "softmax-dim": Call(
        "Softmax without a dimension",
        "F.softmax(x)",
        "F.softmax(x, dim=1)",
        "torch guessed the dimension from the rank: 1 for a matrix, but 0 for rank 3.",
    ),
    "log-softmax-dim": Call(
        "LogSoftmax without a dimension",
        "nn.LogSoftmax()(x)",
        "nn.LogSoftmax(dim=1)(x)",
        "torch guessed the dimension from the rank.",
    ),
    "load-model": Call(
        "Loading a pickled model",
        "file = io.BytesIO()\ntorch.save(model, file)\nfile.seek(0)\ntorch.load(file)",
        "file = io.BytesIO()\ntorch.save(model.state_dict(), file)\nfile.seek(0)\n"
        "model.load_state_dict(torch.load(file))",
        "A pickle can run any code. Since torch 2.6, `load` accepts only weights by default, so "
        "save a `state_dict`.",
    ),
    "byte-mask": Call(
        "A mask of bytes",
        "x[(x > 0).byte()]",
        "x[x > 0]",
        "Until torch 1.2, comparisons returned uint8. Now they return bool, and so masks are bool.",
    ),
    "invert-mask": Call(
        "Inverting a mask",
        "1 - (x > 0)",
        "~(x > 0)",
        "uint8 tensors could be subtracted, bool tensors cannot.",
    ),
    "mean-of-mask": Call(
        "The accuracy of predictions",
        "(model(x).max(1)[1] == y).mean()",
        "(model(x).max(1)[1] == y).float().mean()",
        "`mean` needs a floating-point tensor.",
    ),
    "integer-division": Call(
        "Dividing integers",
        "print(torch.tensor(3) / torch.tensor(2))",
        'print(torch.div(torch.tensor(3), torch.tensor(2), rounding_mode="floor"))',
        "Since torch 1.6, / is true division, as in Python 3.",
        then="tensor(1)",
    ),
    "full-of-integers": Call(
        "Filling a tensor with an integer",
        "print(torch.full((2,), 1).dtype)",
        "print(torch.full((2,), 1.0).dtype)",
        "Since torch 1.7, `full` infers the dtype from the value. Before, it was float32.",
        then="torch.float32",
    ),
    "float-tensor": Call(
        "Converting with a tensor type",
        "y.type(torch.FloatTensor)",
        "y.float()",
        "It still runs, but `FloatTensor` means the CPU, so it moves a tensor from another device.",
    ),
    "default-tensor-type": Call(
        "Changing the default type",
        "torch.set_default_tensor_type(torch.FloatTensor)",
        "torch.set_default_dtype(torch.float32)",
        "`set_default_dtype` sets the dtype, `set_default_device` the device.",
    ),
    "numpy-float": Call(
        "The dtype np.float",
        "torch.from_numpy(np.zeros(2, dtype=np.float))",
        "torch.from_numpy(np.zeros(2, dtype=np.float64))",
        "numpy 1.24 removed its aliases of Python types. `np.float` was Python's float, and so "
        "float64.",
    ),
    "numpy-no-copy": Call(
        "An array that shares memory",
        "print(np.array(torch.ones(2), copy=False))",
        "print(np.asarray(torch.ones(2)))",
        "In numpy 2, `copy=False` means never copy. `asarray` copies only if it must.",
    ),
    "zeroed-gradients": Call(
        "Gradients after zero_grad",
        "F.cross_entropy(model(x), y).backward()\noptimizer.zero_grad()\nprint(model.bias.grad)",
        "F.cross_entropy(model(x), y).backward()\noptimizer.zero_grad(set_to_none=False)\n"
        "print(model.bias.grad)",
        "Since torch 2.0, `zero_grad` sets gradients to None. That saves memory, and the "
        "optimizer skips the parameter.",
        then="tensor([0., 0.])",
    ),
    "scheduler-first": Call(
        "The scheduler before the optimizer",
        "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)\n"
        "scheduler.step()\noptimizer.step()",
        "scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)\n"
        "optimizer.step()\nscheduler.step()",
        "Since torch 1.1, the scheduler steps after the optimizer. If it steps first, it skips "
        "the first learning rate.",
    ),
    "get-lr": Call(
        "Asking for the learning rate",
        "torch.optim.lr_scheduler.StepLR(optimizer, 1).get_lr()",
        "torch.optim.lr_scheduler.StepLR(optimizer, 1).get_last_lr()",
        "`get_lr` is internal and computes the next learning rate. `get_last_lr` returns the "
        "current one.",
    ),
    "async": Call(
        "An asynchronous copy",
        "x.cuda(async=True)",
        'x.to("cpu", non_blocking=True)',
        "Since Python 3.7, async is a keyword, so the file does not compile.",
    ),
    "resize": Call(
        "resize without an underscore",
        "x.resize(1, 4)",
        "x.reshape(1, 4)",
        "`resize` ignores strides and may expose uninitialised elements. `reshape` does neither.",
    ),
    "clip-grad-norm": Call(
        "Clipping gradients",
        "F.cross_entropy(model(x), y).backward()\nnn.utils.clip_grad_norm(model.parameters(), 1)",
        "F.cross_entropy(model(x), y).backward()\nnn.utils.clip_grad_norm_(model.parameters(), 1)",
        "A function that writes in place has a name that ends in an underscore.",
    ),
    "init-normal": Call(
        "Initialising weights",
        "nn.init.normal(model.weight, std=0.01)",
        "nn.init.normal_(model.weight, std=0.01)",
        "A function that writes in place has a name that ends in an underscore.",
    ),
    "add-scaled": Call(
        "Adding a multiple of a tensor",
        "x.add_(0.5, torch.ones(2, 2))",
        "x.add_(torch.ones(2, 2), alpha=0.5)",
        "The factor is now the keyword argument `alpha`.",
    ),
    "upsample": Call(
        "Enlarging images",
        "F.upsample(torch.ones(1, 1, 2, 2), scale_factor=2)",
        "F.interpolate(torch.ones(1, 1, 2, 2), scale_factor=2)",
        "It was renamed, because it also makes images smaller.",
    ),
    "range": Call(
        "A range that includes its end",
        "torch.range(0, 3)",
        "torch.arange(0, 4)",
        "`arange` excludes its end, as Python's range does.",
    ),
    "old-function": Call(
        "A custom backward",
        "class Double(torch.autograd.Function):\n"
        "    def forward(self, x):\n        return 2 * x\n\n"
        "    def backward(self, grad):\n        return 2 * grad\n\n\nDouble()(x)",
        "class Double(torch.autograd.Function):\n"
        "    @staticmethod\n    def forward(ctx, x):\n        return 2 * x\n\n"
        "    @staticmethod\n    def backward(ctx, grad):\n        return 2 * grad\n\n\n"
        "Double.apply(x)",
        "The class is never instantiated, so forward saves values for backward in `ctx`.",
    ),
    "autocast": Call(
        "Mixed precision",
        "with torch.cuda.amp.autocast(enabled=False):\n    model(x)",
        'with torch.autocast("cpu", enabled=False):\n    model(x)',
        "`torch.autocast` takes the device type as an argument.",
    ),
}


def run(code: str) -> tuple[str, str, str]:
    """Run some code; return its outcome (raises, warns or runs), the message and the output."""
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
    """Return the type of an error or warning, and up to 300 characters of its message.

    >>> words(ValueError("no such thing"))
    'ValueError: no such thing'
    """
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else f"{text[:300].rpartition(' ')[0]} …"
    return f"{type(error).__name__}: {clean_text(text)}"


def judge(call: Call) -> dict[str, str]:
    outcome, message, printed = run(call.old)
    if outcome == "runs" and call.then and printed != call.then:
        outcome, message = "another result", f"{printed}, formerly {call.then}"
    replacement, complaint, _ = run(call.new)
    return {
        "outcome": outcome,
        "message": message,
        "replacement": replacement,
        "complaint": complaint,
    }


def record() -> Iterator[str]:
    """Write the record of this version of torch, and yield the faults of the replacements."""
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
