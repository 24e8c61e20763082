"""Parts of a project of a framework, as in `check(**from_lightning(module, data))`.

The adapters call the framework's own loops on copies, so what it does by design is done here too.
None of the frameworks is imported unless its adapter is called.
"""

import copy
import importlib
import random
from typing import Any

import torch
from torch.utils.data import DataLoader

__all__ = ["from_fastai", "from_lightning", "from_skorch", "from_transformers"]

Parts = dict[str, Any]
HELD = ("module_", "criterion_", "optimizer_")  # what skorch keeps of a run
# The arguments of fastai's Learner, without its data, model and callbacks.
MADE_WITH = ("loss_func", "opt_func", "lr", "splitter", "wd", "wd_bn_bias", "train_bn", "moms")


def from_fastai(learner: Any) -> Parts:
    """Return the parts of a Learner of fastai; its callbacks see the training of the copies."""
    fastai: Any = importlib.import_module("fastai.basics")
    importlib.import_module("fastai.callback.progress")  # adds no_bar to Learner

    def end(callback: Any) -> None:
        raise fastai.CancelValidException

    only_trains = type("OnlyTrains", (fastai.Callback,), {"before_validate": end})()
    bare = fastai.Learner(learner.dls, learner.model, loss_func=learner.loss_func)
    known = {type(each) for each in bare.cbs}
    callbacks = [each for each in learner.cbs if type(each) not in known]
    settings = {name: getattr(learner, name) for name in MADE_WITH}

    def of(model: Any, loader: Any = None) -> Any:
        own = [copy.copy(each) for each in callbacks]
        return fastai.Learner(fastai.DataLoaders(loader, loader), model, cbs=own, **settings)

    def optimizer(model: Any) -> Any:
        mine = of(model)
        mine.create_opt()
        return mine.opt

    def fit(model: Any, loader: Any, loss_fn: Any, optimizer: Any) -> None:
        mine = of(model, loader)
        mine.opt = optimizer
        with mine.no_bar(), mine.no_logging():
            mine.fit(1, cbs=[only_trains])

    def evaluate(model: Any, loader: Any, loss_fn: Any) -> float:
        mine = of(model, loader)
        with mine.no_bar(), mine.no_logging():
            return float(mine.validate(dl=loader)[0])

    loader = learner.dls.train.new(num_workers=0)  # the default has one for each core

    def draw_order() -> None:
        """Draw the order from the global generator; fastai has one that no seed repeats."""
        loader.rng = random.Random(int(torch.randint(2**31, ())))

    loader.randomize = draw_order
    parts = {"model": learner.model, "loss_fn": learner.loss_func, "optimizer": optimizer}
    return parts | {"loader": loader, "fit": fit, "evaluate": evaluate}


def from_lightning(module: Any, data: Any = None, **settings: Any) -> Parts:
    """Return the parts of a LightningModule with its data module, or its loader, or neither.

    `settings` are those of its Trainer, such as gradient_clip_val.
    """
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    quiet = {"max_epochs": 1, "accelerator": "cpu", "devices": 1} | dict.fromkeys(off, False)

    def trainer() -> Any:
        return importlib.import_module("lightning").Trainer(**quiet | settings)

    def fit(model: Any, loader: Any, loss_fn: Any, optimizer: Any) -> None:
        vars(model)["configure_optimizers"] = lambda: optimizer
        trainer().fit(model, loader)

    def evaluate(model: Any, loader: Any, loss_fn: Any) -> Any:
        return trainer().validate(model, loader, verbose=False)

    if hasattr(data, "setup"):
        data.prepare_data()
        data.setup("fit")
    loaders = data if hasattr(data, "train_dataloader") else module
    parts = {"model": module, "fit": fit, "optimizer": lambda model: model.configure_optimizers()}
    parts["loader"] = loaders.train_dataloader() if loaders is data or data is None else data
    if "validation_step" in vars(type(module)):
        parts["evaluate"] = evaluate
    why = "Lightning sets gradients to None before it validates"
    return parts | {"except_for": {"validation-records-no-gradients": why}}


def from_transformers(trainer: Any) -> Parts:
    """Return the parts of a Trainer of transformers."""
    bare = copy.copy(trainer)  # without what leads to the model: the checks train copies
    bare.callback_handler = copy.copy(trainer.callback_handler)
    nothing = dict.fromkeys(("model", "optimizer", "lr_scheduler", "train_dataloader"))
    vars(bare.callback_handler).update(nothing, callbacks=[], eval_dataloader=None)
    vars(bare).update(model=None, model_wrapped=None, optimizer=None, lr_scheduler=None)
    bare.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps

    def of(model: Any) -> Any:
        mine = copy.copy(bare)
        mine.model = mine.model_wrapped = model
        return mine

    def fit(model: Any, loader: Any, loss_fn: Any, optimizer: Any) -> None:
        mine = of(model)
        for batch in loader:
            mine.training_step(model, dict(batch))
            optimizer.step()
            model.zero_grad()

    def evaluate(model: Any, loader: Any, loss_fn: Any) -> Any:
        found = of(model).evaluation_loop(loader, description="checks").metrics
        # The library's own mean of the losses gives a small last batch too much weight.
        own = ("eval_loss", "eval_model_preparation_time")
        return {name: value for name, value in found.items() if name not in own}

    parts = {"model": trainer.model, "optimizer": lambda model: of(model).create_optimizer()}
    prepared = trainer.get_train_dataloader()  # which shuffles by the number of the epoch
    size, collate = trainer.args.per_device_train_batch_size, prepared.collate_fn
    loader = DataLoader(prepared.dataset, size, shuffle=True, collate_fn=collate)
    return parts | {"loader": loader, "fit": fit, "evaluate": evaluate}


def from_skorch(net: Any, inputs: Any, targets: Any = None) -> Parts:
    """Return the parts of a NeuralNet of skorch with its training data."""
    if not net.initialized_:
        net.initialize()
    state = {name: x for name, x in vars(net).items() if name not in HELD}

    def of(model: Any, loss_fn: Any, optimizer: Any = None) -> Any:
        mine = object.__new__(type(net))
        vars(mine).update(state)
        vars(mine).update(module_=model, criterion_=loss_fn, optimizer_=optimizer)
        return mine

    def fit(model: Any, loader: Any, loss_fn: Any, optimizer: Any) -> None:
        mine = of(model, loss_fn, optimizer)
        for batch in loader:
            mine.train_step(batch)

    def evaluate(model: Any, loader: Any, loss_fn: Any) -> float:
        mine, total = of(model, loss_fn), 0.0
        for batch in loader:
            total += float(mine.validation_step(batch)["loss"]) * len(batch[1])
        return total / len(loader.dataset)

    loader = net.get_iterator(net.get_dataset(inputs, targets), training=True)
    parts = {"model": net.module_, "loss_fn": net.criterion_, "optimizer": net.optimizer_}
    return parts | {"loader": loader, "fit": fit, "evaluate": evaluate}
