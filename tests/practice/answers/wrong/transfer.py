"""Wrong answers to the exercises of lesson 8, transfer, as learners write them."""

import copy
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision import models

from dlconcepts.checkpoints import restore
from dlconcepts.support.bitwise import same
from dlconcepts.support.runs import find_model_device
from dlconcepts.transfer import UNTRAINED, Head, has_parameters, put_frozen_in_eval
from dlconcepts.validation import inference
from dlconcepts.weights import WeightsError, check_hash, file_name


def _find_head(model: nn.Module, error: type[Exception] = ValueError) -> Head:
    if any(hasattr(module, "_packed_params") for module in model.modules()):
        raise error("quantized layers cannot be trained")
    layers = [(name, layer) for name, layer in model.named_modules() if has_parameters(layer)]
    if isinstance(model, models.SqueezeNet):
        return Head("classifier", layers[-1][1].in_channels)
    if not layers or not isinstance(layers[-1][1], nn.Linear):
        raise error("the last layer is no Linear")
    return Head(layers[-1][0], layers[-1][1].in_features)


def find_head__the_first_linear(model: nn.Module) -> Head:
    """Take the first Linear instead of the last."""
    if isinstance(model, models.SqueezeNet):
        return _find_head(model)
    _find_head(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            return Head(name, layer.in_features)
    raise ValueError("there is no Linear")


def find_head__the_last_module(model: nn.Module) -> Head:
    """Look at the last module, which may have no parameters, such as a Dropout."""
    if any(hasattr(module, "_packed_params") for module in model.modules()):
        raise ValueError("quantized layers cannot be trained")
    if isinstance(model, models.SqueezeNet):
        return _find_head(model)
    name, layer = list(model.named_modules())[-1]
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"{name} is not a Linear")
    return Head(name, layer.in_features)


def find_head__always_fc(model: nn.Module) -> Head:
    """Know ResNets alone, whose head is called fc."""
    layer = getattr(model, "fc", None)
    if not isinstance(layer, nn.Linear):
        raise ValueError("the model has no layer fc")
    return Head("fc", layer.in_features)


def find_head__the_last_linear(model: nn.Module) -> Head:
    """Take the last Linear, also if another layer with parameters follows it."""
    if isinstance(model, models.SqueezeNet) or any(
        hasattr(module, "_packed_params") for module in model.modules()
    ):
        return _find_head(model)
    linear = [(n, layer) for n, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ValueError("there is no Linear")
    return Head(linear[-1][0], linear[-1][1].in_features)


def find_head__out_features(model: nn.Module) -> Head:
    """Return how many scores the head gives rather than how many features it takes."""
    name, _ = _find_head(model)
    layer = model.get_submodule(name)
    return Head(name, layer.out_features if isinstance(layer, nn.Linear) else 1000)


def find_head__last_part_of_the_name(model: nn.Module) -> Head:
    """Return the last part of the dotted name."""
    name, features = _find_head(model)
    return Head(name.split(".")[-1], features)


def find_head__no_squeezenet(model: nn.Module) -> Head:
    """Refuse a SqueezeNet, whose last layer is a convolution."""
    layers = [(name, layer) for name, layer in model.named_modules() if has_parameters(layer)]
    if not layers or not isinstance(layers[-1][1], nn.Linear):
        raise ValueError("the last layer is no Linear")
    return _find_head(model)


def find_head__of_quantized_models(model: nn.Module) -> Head:
    """Accept a model with quantized layers if its last float layer is a Linear."""
    if not any(hasattr(module, "_packed_params") for module in model.modules()):
        return _find_head(model)
    name, layer = [
        (n, m) for n, m in model.named_modules() if hasattr(m, "in_features") or has_parameters(m)
    ][-1]
    return Head(name, layer.in_features)


def find_head__type_error(model: nn.Module) -> Head:
    """Raise TypeError where ValueError is promised."""
    return _find_head(model, TypeError)


def _first_linear(module: nn.Module) -> nn.Linear | None:
    return next((part for part in module.modules() if isinstance(part, nn.Linear)), None)


def _locate(model: nn.Module, name: str | None) -> tuple[str, int | None]:
    if name is None:
        return _find_head(model)
    if name == "" or name not in dict(model.named_modules(remove_duplicate=False)):
        raise ValueError(f"there is no module {name!r}")
    if isinstance(model, models.SqueezeNet) and name == "classifier":
        return name, 512
    old = _first_linear(model.get_submodule(name))
    return name, None if old is None else old.in_features


def _check(head: nn.Module, features: int | None) -> None:
    first = _first_linear(head)
    if first is not None and features is not None and first.in_features not in (0, features):
        raise ValueError(f"the head takes {first.in_features} features, not {features}")


def _put(model: nn.Module, name: str, head: nn.Module) -> None:
    if isinstance(model, models.SqueezeNet) and name == "classifier":
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    model.set_submodule(name, head)


def _drop_auxiliaries(model: nn.Module) -> None:
    if isinstance(model, models.GoogLeNet | models.Inception3):
        model.aux_logits = False
        for name in ("aux1", "aux2", "AuxLogits"):
            if name in model._modules:
                setattr(model, name, None)


def replace_head__always_fc(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Assign to `fc`, which other models never run."""
    path, features = _locate(model, name)
    _check(head, features)
    if name is None:
        model.fc = head
    else:
        _put(model, path, head)
    _drop_auxiliaries(model)


def replace_head__adds_a_module(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Add a module of a mistyped name, which the model never runs."""
    if name is not None and "." not in name and not hasattr(model, name):
        model.add_module(name, head)
        return
    path, features = _locate(model, name)
    _check(head, features)
    _put(model, path, head)
    _drop_auxiliaries(model)


def replace_head__of_any_width(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Check nothing about the features, so only the next forward pass fails."""
    path, _ = _locate(model, name)
    _put(model, path, head)
    _drop_auxiliaries(model)


def replace_head__keeps_the_auxiliaries(
    model: nn.Module, head: nn.Module, name: str | None = None
) -> None:
    """Keep the auxiliary classifiers, so GoogLeNet returns a tuple in train mode."""
    path, features = _locate(model, name)
    _check(head, features)
    _put(model, path, head)


def replace_head__ignores_the_name(
    model: nn.Module, head: nn.Module, name: str | None = None
) -> None:
    """Replace the head that it finds, whatever the name is."""
    if name is not None:
        _locate(model, name)
    path, features = _find_head(model)
    _check(head, features)
    _put(model, path, head)
    _drop_auxiliaries(model)


def replace_head__in_a_copy(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Replace the head of a copy and leave the model as it was."""
    path, features = _locate(model, name)
    _check(head, features)
    model = copy.deepcopy(model)
    _put(model, path, head)
    _drop_auxiliaries(model)


def replace_head__after_the_old_one(
    model: nn.Module, head: nn.Module, name: str | None = None
) -> None:
    """Put the new head behind the old one instead of in its place."""
    path, features = _locate(model, name)
    _check(head, features)
    model.set_submodule(path, nn.Sequential(model.get_submodule(path), head))
    _drop_auxiliaries(model)


def replace_head__attribute_error(
    model: nn.Module, head: nn.Module, name: str | None = None
) -> None:
    """Let the AttributeError of `get_submodule` through."""
    if name is not None:
        model.get_submodule(name)
    path, features = _locate(model, name)
    _check(head, features)
    _put(model, path, head)
    _drop_auxiliaries(model)


def replace_head__checks_the_last_linear(
    model: nn.Module, head: nn.Module, name: str | None = None
) -> None:
    """Compare the last Linear of the head instead of the first, so deep heads are refused."""
    path, features = _locate(model, name)
    linear = [part for part in head.modules() if isinstance(part, nn.Linear)]
    if linear and features is not None and linear[-1].in_features != features:
        raise ValueError("the head takes another number of features")
    _put(model, path, head)
    _drop_auxiliaries(model)


def _classifiers() -> list[str]:
    return models.list_models(module=models)


def untrained__of_every_kind(name: str) -> nn.Module:
    """Accept segmentation, video and quantized models as well."""
    builder = models.get_model_builder(name)
    if name in _classifiers():
        return builder(weights=None, **UNTRAINED.get(name, {}))
    try:
        return builder(weights=None, weights_backbone=None)
    except TypeError:
        return builder(weights=None)


def untrained__attribute_error(name: str) -> nn.Module:
    """Look the function up without asking whether it is there."""
    return getattr(models, name)(**UNTRAINED.get(name, {}))


def untrained__seeds(name: str) -> nn.Module:
    """Seed the global generator, so the weights are always the same."""
    if name not in _classifiers():
        raise ValueError(f"no classifier {name}")
    torch.manual_seed(0)
    return models.get_model(name, weights=None, **UNTRAINED.get(name, {}))


def untrained__a_few_names(name: str) -> nn.Module:
    """Know three classifiers alone."""
    known = {"resnet18": models.resnet18, "alexnet": models.alexnet, "vgg11": models.vgg11}
    if name not in known:
        raise ValueError(f"choose one of {list(known)}")
    return known[name]()


def untrained__none(name: str) -> nn.Module:
    """Return None for an unknown name."""
    if name not in _classifiers():
        return None
    return models.get_model(name, weights=None, **UNTRAINED.get(name, {}))


def untrained__zeros(name: str) -> nn.Module:
    """Set all parameters to zero, which no training can tell apart."""
    if name not in _classifiers():
        raise ValueError(f"no classifier {name}")
    model = models.get_model(name, weights=None, **UNTRAINED.get(name, {}))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def untrained__the_function(name: str) -> nn.Module:
    """Return the function that builds the classifier, without a call."""
    if name not in _classifiers():
        raise ValueError(f"no classifier {name}")
    return models.get_model_builder(name)


@cache
def _cached(name: str) -> nn.Module:
    return models.get_model(name, weights=None, **UNTRAINED.get(name, {}))


def untrained__from_a_cache(name: str) -> nn.Module:
    """Return the same network at every call, with the weights that it was trained to since."""
    if name not in _classifiers():
        raise ValueError(f"no classifier {name}")
    return _cached(name)


def untrained__falls_back(name: str) -> nn.Module:
    """Return a ResNet for a name that torchvision does not know."""
    if name not in _classifiers():
        name = "resnet18"
    return models.get_model(name, weights=None, **UNTRAINED.get(name, {}))


def _widths(in_features: int, hidden: Sequence[int], out_features: int) -> list[int]:
    widths = [in_features, *hidden, out_features]
    if min(widths) < 1:
        raise ValueError("a size is below 1")
    return widths


def _layers(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers[:-1]


def new_head__relu_at_the_end(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Put a ReLU behind the last Linear too, so no logit is negative."""
    layers = [*_layers(_widths(in_features, hidden_features, out_features)), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if log_probabilities else []))


def new_head__softmax(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Return probabilities instead of their logarithms."""
    layers = _layers(_widths(in_features, hidden_features, out_features))
    return nn.Sequential(*layers, *([nn.Softmax(dim=1)] if log_probabilities else []))


def new_head__over_the_batch(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Take the log-softmax over the examples."""
    layers = _layers(_widths(in_features, hidden_features, out_features))
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=0)] if log_probabilities else []))


def new_head__always_logits(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Ignore `log_probabilities`."""
    return nn.Sequential(*_layers(_widths(in_features, hidden_features, out_features)))


def new_head__of_size_zero(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Refuse negative sizes but not zero."""
    if min(in_features, out_features, *hidden_features, 0) < 0:
        raise ValueError("a size is negative")
    layers = _layers([in_features, *hidden_features, out_features])
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if log_probabilities else []))


def new_head__one_hidden_layer(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Use the first hidden width and no other."""
    _widths(in_features, hidden_features, out_features)
    layers = _layers([in_features, *hidden_features[:1], out_features])
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if log_probabilities else []))


def new_head__linear(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Forget the ReLU, so all layers together are one linear map."""
    layers = _layers(_widths(in_features, hidden_features, out_features))
    layers = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if log_probabilities else []))


def new_head__appends_to_the_argument(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Append the last width to the caller's list."""
    _widths(in_features, hidden_features, out_features)
    hidden_features.append(out_features)
    layers = _layers([in_features, *hidden_features])
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if log_probabilities else []))


def new_head__from_the_back(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Use the hidden widths in the reverse order."""
    layers = _layers(_widths(in_features, list(hidden_features)[::-1], out_features))
    return nn.Sequential(*layers, *([nn.LogSoftmax(dim=1)] if log_probabilities else []))


def _name_of(model: nn.Module, head: nn.Module) -> str:
    for name, module in model.named_modules():
        if module is head:
            return name
    raise ValueError("the head is not a module of the model")


def _require(model: nn.Module, head: nn.Module) -> None:
    model.requires_grad_(False)
    head.requires_grad_(True)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = None


def freeze__eval_once(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Call eval once, which the next `model.train()` undoes."""
    _name_of(model, head)
    _require(model, head)
    model.eval()
    head.train()
    return model.register_forward_pre_hook(lambda module, inputs: None)


def freeze__the_head_too(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Put the whole model into eval mode, so dropout in the head never works."""
    _name_of(model, head)
    _require(model, head)

    def hook(module: nn.Module, inputs: Any) -> None:
        module.eval()

    return model.register_forward_pre_hook(hook)


def freeze__zero_gradients(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Set the other gradients to zero instead of None."""
    name = _name_of(model, head)
    model.requires_grad_(False)
    head.requires_grad_(True)
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.grad is not None:
            parameter.grad.zero_()
    return model.register_forward_pre_hook(partial(put_frozen_in_eval, name))


def freeze__keeps_the_gradients(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Leave the gradients of an earlier backward pass where they are."""
    name = _name_of(model, head)
    for parameter in model.parameters():
        parameter.requires_grad = False
    for parameter in head.parameters():
        parameter.requires_grad = True
    return model.register_forward_pre_hook(partial(put_frozen_in_eval, name))


def freeze__leaves_the_head(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Freeze the rest but do not unfreeze a head that was frozen before."""
    name = _name_of(model, head)
    own = set(head.parameters())
    for parameter in set(model.parameters()) - own:
        parameter.requires_grad = False
        parameter.grad = None
    return model.register_forward_pre_hook(partial(put_frozen_in_eval, name))


def freeze__any_head(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Accept a head of another model, so nothing is left to train."""
    _require(model, head)
    own = set(head.modules())

    def hook(module: nn.Module, inputs: Any) -> None:
        for part in set(module.modules()) - own:
            if not any(p.requires_grad for p in part.parameters(recurse=False)):
                part.training = False

    return model.register_forward_pre_hook(hook)


def freeze__batch_norm_only(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Put only BatchNorm into eval mode, so frozen dropout makes the features random."""
    _name_of(model, head)
    _require(model, head)
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    norms = [m for m in model.modules() if isinstance(m, kinds) and m not in set(head.modules())]

    def hook(module: nn.Module, inputs: Any) -> None:
        for norm in norms:
            if not any(p.requires_grad for p in norm.parameters()):
                norm.training = False

    return model.register_forward_pre_hook(hook)


def freeze__after_the_forward_pass(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Set eval mode after each forward pass, when the statistics have moved already."""
    name = _name_of(model, head)
    _require(model, head)

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        put_frozen_in_eval(name, module)

    return model.register_forward_hook(hook)


def freeze__trains_the_head(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Put the head into train mode before each pass, also when the model is evaluated."""
    name = _name_of(model, head)
    _require(model, head)

    def hook(module: nn.Module, inputs: Any) -> None:
        put_frozen_in_eval(name, module)
        module.get_submodule(name).train()

    return model.register_forward_pre_hook(hook)


def freeze__for_ever(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Replace `train` by a function, which removing the handle does not undo."""
    name = _name_of(model, head)
    _require(model, head)

    def train(mode: bool = True) -> nn.Module:
        nn.Module.train(model, mode)
        put_frozen_in_eval(name, model)
        return model

    model.train = train
    return model.register_forward_pre_hook(partial(put_frozen_in_eval, name))


def freeze__by_the_start_of_the_name(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Leave out every parameter whose name starts like the head's, such as fc2 next to fc."""
    name = _name_of(model, head)
    for other, parameter in model.named_parameters():
        parameter.requires_grad = other.startswith(name)
        if not parameter.requires_grad:
            parameter.grad = None
    return model.register_forward_pre_hook(partial(put_frozen_in_eval, name))


def _read(path: str | Path) -> Any:
    try:
        check_hash(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _check_tensors(found: Any) -> dict[str, Tensor]:
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise WeightsError("the file holds more than tensors")
    return found


def _restore(model: nn.Module, found: dict[str, Tensor]) -> None:
    try:
        restore(model, found)
    except Exception as error:
        raise WeightsError(f"the weights do not fit: {error}") from error


def load_weights__other_errors(model: nn.Module, path: str | Path) -> None:
    """Let the errors of torch.load through, such as that of a missing file."""
    if Path(path).exists():
        check_hash(path)
    found = torch.load(path, map_location="cpu", weights_only=True)
    _restore(model, _check_tensors(found))


def load_weights__runs_pickles(model: nn.Module, path: str | Path) -> None:
    """Unpickle whatever the file holds, code included, and check afterwards."""
    try:
        check_hash(path)
        found = torch.load(path, map_location="cpu", weights_only=False)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"{path} cannot be read") from error
    _restore(model, _check_tensors(found))


def load_weights__not_strict(model: nn.Module, path: str | Path) -> None:
    """Load the names that fit and ignore the others."""
    found = _check_tensors(_read(path))
    own = model.state_dict()
    fitting = {k: v for k, v in found.items() if k in own and v.shape == own[k].shape}
    model.load_state_dict(fitting, strict=False)


def load_weights__any_hash(model: nn.Module, path: str | Path) -> None:
    """Trust a file whose hash is not that in its name."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} cannot be read") from error
    _restore(model, _check_tensors(found))


def load_weights__half_loaded(model: nn.Module, path: str | Path) -> None:
    """Raise the right error after a part of the weights was loaded."""
    found = _check_tensors(_read(path))
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit: {error}") from error


def load_weights__tensors_among_others(model: nn.Module, path: str | Path) -> None:
    """Pick the tensors out of a file that holds other things too."""
    found = _read(path)
    if not isinstance(found, dict):
        raise WeightsError(f"{path} holds no dictionary")
    _restore(model, {name: value for name, value in found.items() if isinstance(value, Tensor)})


def load_weights__unwraps(model: nn.Module, path: str | Path) -> None:
    """Accept a whole checkpoint and take its "state_dict"."""
    found = _read(path)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    _restore(model, _check_tensors(found))


def load_weights__runtime_error(model: nn.Module, path: str | Path) -> None:
    """Let the RuntimeError of weights that do not fit through."""
    found = _check_tensors(_read(path))
    restore(model, found)


def _kinds(name: str) -> Any:
    if name not in _classifiers():
        raise ValueError(f"torchvision has no classifier {name!r}")
    return models.get_model_weights(name)


def _ordered(name: str) -> list[models.WeightsEnum]:
    kinds = _kinds(name)
    return [kinds.DEFAULT, *(kind for kind in kinds if kind is not kinds.DEFAULT)]


def _folder() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _fetch(weights: models.WeightsEnum, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(
            weights.url, str(folder / file_name(weights)), progress=False
        )
    except Exception as error:
        raise WeightsError(f"cannot download {weights.url} to {folder}: {error}") from error


def _choose(ordered: list[models.WeightsEnum], download: bool, folder: Path) -> models.WeightsEnum:
    for weights in ordered:
        if (folder / file_name(weights)).exists():
            return weights
    if not download:
        raise WeightsError(f"copy {file_name(ordered[0])} to {folder}")
    _fetch(ordered[0], folder)
    return ordered[0]


def _build(name: str, weights: models.WeightsEnum) -> nn.Module:
    options = dict(UNTRAINED.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    model = models.get_model(name, weights=None, **options)
    if hasattr(model, "transform_input"):
        model.transform_input = True
    return model


def _load(model: nn.Module, path: Path) -> None:
    _restore(model, _check_tensors(_read(path)))


def pretrained__never_loads(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Return random weights."""
    weights = _choose(_ordered(name), download, _folder())
    _load(_build(name, weights), _folder() / file_name(weights))
    return _build(name, weights).eval(), weights


def pretrained__in_train_mode(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Return the model in train mode."""
    weights = _choose(_ordered(name), download, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model, weights


def pretrained__the_default_only(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Look for the default weights alone, although others are there."""
    weights = _choose([_kinds(name).DEFAULT], download, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model.eval(), weights


def pretrained__in_the_listed_order(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Prefer the oldest weights to torchvision's default."""
    weights = _choose(list(_kinds(name)), download, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model.eval(), weights


def pretrained__file_not_found(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Raise FileNotFoundError for missing weights."""
    try:
        weights = _choose(_ordered(name), False, _folder())
    except WeightsError as error:
        weights = _ordered(name)[0]
        if not download:
            raise FileNotFoundError(_folder() / file_name(weights)) from error
        _fetch(weights, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model.eval(), weights


def pretrained__tells_no_folder(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Say that the weights are missing, but not where to copy them."""
    ordered = _ordered(name)
    if not download and not any((_folder() / file_name(w)).exists() for w in ordered):
        raise WeightsError(f"the weights of {name} are missing")
    weights = _choose(ordered, download, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model.eval(), weights


def pretrained__returns_the_transforms(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Return the transforms of the weights instead of the weights."""
    weights = _choose(_ordered(name), download, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model.eval(), weights.transforms()


def pretrained__in_the_home_folder(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Ignore TORCH_HOME and look below the home folder."""
    folder = Path("~/.cache/torch/hub/checkpoints").expanduser()
    weights = _choose(_ordered(name), download, folder)
    model = _build(name, weights)
    _load(model, folder / file_name(weights))
    return model.eval(), weights


def pretrained__key_error(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Raise KeyError for a classifier that torchvision does not have."""
    builders = {known: models.get_model_builder(known) for known in _classifiers()}
    builders[name]
    weights = _choose(_ordered(name), download, _folder())
    model = _build(name, weights)
    _load(model, _folder() / file_name(weights))
    return model.eval(), weights


def pretrained__damaged_is_random(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Warn of a damaged file and go on with random weights."""
    weights = _choose(_ordered(name), download, _folder())
    model = _build(name, weights)
    try:
        _load(model, _folder() / file_name(weights))
    except WeightsError as error:
        print(f"random weights, because {error}")
    return model.eval(), weights


_Batches = Iterable[tuple[Tensor, Tensor]]


def _extract(
    model: nn.Module, head: nn.Module, data: _Batches, *, check: bool = True
) -> tuple[list[Tensor], list[Tensor]]:
    kept: list[Tensor] = []

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept[:] = [inputs[0].clone()]

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        kept.append(output.clone())

    handles = [head.register_forward_pre_hook(before), head.register_forward_hook(after)]
    features, labels = [], []
    try:
        for images, targets in data:
            kept.clear()
            output = model(images.to(find_model_device(model)))
            if check and (len(kept) != 2 or not same(output, kept[1])):
                raise ValueError("the output does not come from the head")
            features.append(kept[0].cpu())
            labels.append(targets.cpu())
    finally:
        for handle in handles:
            handle.remove()
    return features, labels


def extract_features__in_train_mode(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Leave dropout on and let BatchNorm move."""
    with torch.no_grad():
        features, labels = _extract(model, head, data)
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels)


def extract_features__the_outputs(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Return what comes out of the head."""
    with inference(model):
        pairs = [(images, labels) for images, labels in data]
        features, labels = _extract(model, head, pairs)
        if not labels:
            raise ValueError("there are no batches")
        device = find_model_device(model)
        outputs = [head(some.to(device)).cpu() for some in features]
    return torch.cat(outputs), torch.cat(labels)


def extract_features__trains_afterwards(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Put every module into train mode afterwards."""
    model.eval()
    try:
        with torch.no_grad():
            features, labels = _extract(model, head, data)
    finally:
        model.train()
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels)


def extract_features__the_last_batch(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Keep only what the last batch gave."""
    with inference(model):
        features, labels = _extract(model, head, data)
    if not labels:
        raise ValueError("there are no batches")
    return features[-1], labels[-1]


def extract_features__leaves_its_hook(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Never remove the hook, which keeps every later input alive too."""
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    with inference(model):
        features, labels = _extract(model, head, data)
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels)


def extract_features__of_nothing(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Return empty tensors if there are no batches."""
    with inference(model):
        features, labels = _extract(model, head, data)
    if not labels:
        return torch.empty(0), torch.empty(0, dtype=torch.int64)
    return torch.cat(features), torch.cat(labels)


def extract_features__of_any_layer(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Accept a layer in the middle of the model as the head."""
    with inference(model):
        features, labels = _extract(model, head, data, check=False)
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels)


def extract_features__with_the_graph(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Keep the graph, so the second step of training a head raises."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        features, labels = _extract(model, head, data)
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels)


def extract_features__flat(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Flatten the features, which a head that takes feature maps cannot use."""
    with inference(model):
        features, labels = _extract(model, head, data)
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features).flatten(1), torch.cat(labels)


def extract_features__sorted_by_label(
    model: nn.Module, head: nn.Module, data: _Batches
) -> tuple[Tensor, Tensor]:
    """Sort the labels but not the features, so they no longer belong together."""
    with inference(model):
        features, labels = _extract(model, head, data)
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels).sort().values
