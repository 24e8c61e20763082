"""Check your own model: the laws of the course that a project's code can break.

    from dlconcepts import checks

    report = checks.check(model=model, batch=(inputs, targets), loss_fn=nn.CrossEntropyLoss())
    print(report)

Give every part by keyword. A check whose parts are missing is reported as not checked.

=============  =====================================================================================
part           what it is, and how the checks call it
=============  =====================================================================================
`model`        a Module, or a function without arguments that returns one
`batch`        what the loader gives, in its form: (inputs, targets), (several inputs..., targets),
               inputs alone, a dictionary, named tuple, data class or object whose targets are
               called targets, target, labels, label or y, or lists of examples. Several inputs
               become arguments of forward if it takes them: by position, or by name
`targets`      where the targets are in a batch, if not there: a key, a position, or a function
               that returns them, such as `lambda batch: batch[0]`
`data`         the training data: a Dataset, (all inputs, all targets), or a loader
`loader`       its DataLoader, or another iterable of batches; its first is the default `batch`
`validation`   the Dataset or loader for validation
`loss_fn`      loss_fn(outputs, targets)
`optimizer`    an Optimizer, several in a tuple, also with schedules, an own class with `step`, or
               a function that takes the parameters (or `model`) and returns one of these
`train_step`   train_step(model, loss_fn, optimizer, inputs, targets); what is not given is None
`fit`          one epoch: fit(model, loader, loss_fn, optimizer)
`predict`      predict(model, inputs)
`accuracy`     accuracy(outputs, targets): a number, or several; the first one counts
`evaluate`     evaluate(model, loader, loss_fn): a number, several, a dictionary or an object
`save`         save(model, path) or save(model, optimizer, path)
`load`         load(model, path), load(model, optimizer, path), or load(path), which returns them
`snapshot`     snapshot(model): the weights, to keep while training continues
`seed`         seed(number), which makes a run repeatable
`forward`      forward(model, inputs), if model(inputs) does not work
`frozen`       names of the frozen parts; by default, what has requires_grad=False
`device`       where the checks run; by default, where the model is
`batch_dim`    the dimension of the inputs that counts the examples; by default, the first
=============  =====================================================================================

A model that computes its own loss, as those of transformers do, needs no `loss_fn`.
`check(**from_lightning(module, data))` takes the parts of a framework; see `from_fastai`,
`from_skorch` and `from_transformers`, too. Files that your functions write go to a folder of their
own.

If your functions take other arguments, give a lambda. If a law does not apply, name it and say
why: `except_for={"examples-stay-apart": "a contrastive model mixes examples on purpose"}`.

You can also call a single check: `check_examples_stay_apart(model=model, batch=batch)` raises
CheckFailedError. `parametrize` turns the checks into pytest tests, and `python -m dlconcepts check`
runs them from the shell. They need nothing but PyTorch.
"""

# isort: off
# Checks register on import, so this is the order of the course and of the reports.
# ruff: noqa: F403
from dlconcepts.checks.laws.forward import *
from dlconcepts.checks.laws.loss import *
from dlconcepts.checks.laws.learning import *
from dlconcepts.checks.laws.steps import *
from dlconcepts.checks.laws.validation import *
from dlconcepts.checks.laws.metrics import *
from dlconcepts.checks.laws.checkpoints import *
from dlconcepts.checks.laws.data import *
from dlconcepts.checks.laws.freezing import *
from dlconcepts.checks.laws.normalising import *
from dlconcepts.checks.adapters import *
from dlconcepts.checks.registry import *
from dlconcepts.checks.report import *
