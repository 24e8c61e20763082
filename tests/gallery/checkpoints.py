"""Mistakes in checkpoints and in copies of weights."""

import copy

import torch

from tests.gallery.base import classifier, mistake, project, train_step


def save_parameters(model, optimizer, path):
    """Save the parameters without the buffers."""
    named = {name: p.detach() for name, p in model.named_parameters()}
    torch.save({"model": named, "optimizer": optimizer.state_dict()}, path)


def load_what_fits(model, optimizer, path):
    """Load what the file has and ignore what is missing."""
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"], strict=False)
    optimizer.load_state_dict(checkpoint["optimizer"])


@mistake(
    "a-checkpoint-holds-the-model",
    "buffers did not come back: body.1.running_mean",
    classifier,
    "a-partial-checkpoint-is-refused",
)
def buffers_missing_in_the_checkpoint():
    """named_parameters() skips the buffers, and strict=False hides that they are missing."""
    return project(save=save_parameters, load=load_what_fits)


@mistake("a-partial-checkpoint-is-refused", "loaded without an error", classifier)
def a_partial_load():
    """strict=False silently keeps the old values of everything that the file lacks."""
    return project(load=load_what_fits)


def load_by_name(model, optimizer, path):
    """Load the tensors whose names the model knows."""
    checkpoint = torch.load(path, weights_only=True)
    own = model.state_dict()
    fitting = {k: v for k, v in checkpoint["model"].items() if k in own}
    own.update(fitting)
    model.load_state_dict(own)
    optimizer.load_state_dict(checkpoint["optimizer"])


@mistake("a-partial-checkpoint-is-refused", "loaded without an error", classifier)
def a_filtered_load():
    """A filter on names keeps old values for what the file lacks, so strict loading passes."""
    return project(load=load_by_name)


def save_model_only(model, optimizer, path):
    torch.save({"model": model.state_dict()}, path)


def load_model_only(model, optimizer, path):
    model.load_state_dict(torch.load(path, weights_only=True)["model"])


@mistake("a-checkpoint-holds-the-optimizer", "did not come back", classifier)
def optimizer_missing_in_the_checkpoint():
    """The optimizer's state is neither saved nor loaded."""
    return project(save=save_model_only, load=load_model_only)


def live_state(model):
    """Return the live tensors instead of copies."""
    return model.state_dict()


@mistake("kept-weights-are-a-copy", "that snapshot returned share memory", classifier)
def state_dict_kept_by_reference():
    """The best weights are model.state_dict(), which keeps changing with the model."""
    return project(snapshot=live_state)


def shallow_copy(model):
    """Return a new dictionary of the live tensors."""
    return dict(model.state_dict())


@mistake("kept-weights-are-a-copy", "that snapshot returned share memory", classifier)
def a_shallow_copy_of_the_state():
    """dict(model.state_dict()) is a new dictionary of the same tensors."""
    return project(snapshot=shallow_copy)


def fit_with_best(keep):
    """Return a fit that ends with the best weights, which `keep` has copied."""

    def fit(model, loader, loss_fn, optimizer):
        best, least = None, float("inf")
        for inputs, targets in loader:
            loss = train_step(model, loss_fn, optimizer, inputs, targets)
            if loss < least:
                best, least = keep(model.state_dict()), loss
        model.load_state_dict(best)
        return least

    return fit


def keeps_a_deep_copy():
    """Early stopping restores a deep copy of the best weights."""
    return project(fit=fit_with_best(copy.deepcopy), snapshot=None)


@mistake("kept-weights-are-a-copy", "fit loaded", keeps_a_deep_copy)
def early_stopping_that_keeps_the_last():
    """Early stopping restores the live weights, so the last ones win."""
    return project(fit=fit_with_best(dict), snapshot=None)


def save_halves(model, optimizer, path):
    """Save the parameters in half precision."""
    halves = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save({"model": halves, "optimizer": optimizer.state_dict()}, path)


@mistake("a-checkpoint-holds-the-model", "did not come back", classifier)
def weights_saved_in_half_precision():
    """The weights are saved in half precision, so the loaded ones are rounded."""
    return project(save=save_halves)


def load_half(model, optimizer, path):
    """Load the model and ignore the saved optimizer."""
    model.load_state_dict(torch.load(path, weights_only=True)["model"])


@mistake("a-checkpoint-holds-the-optimizer", "did not come back", classifier)
def optimizer_saved_and_not_loaded():
    """The optimizer's state is in the file, but load ignores it."""
    return project(load=load_half)


def detached_state(model):
    """Return detached tensors, which share memory with the live ones."""
    return {name: value.detach() for name, value in model.state_dict().items()}


@mistake("kept-weights-are-a-copy", "that snapshot returned share memory", classifier)
def detached_weights_kept():
    """The weights are kept with detach(), which makes new tensors over the same memory."""
    return project(snapshot=detached_state)
