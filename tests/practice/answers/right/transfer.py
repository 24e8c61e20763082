"""Right answers to the exercises of lesson 8, transfer, as learners write them."""

import functools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision import models

from dlconcepts.support.bitwise import same
from dlconcepts.support.runs import find_model_device
from dlconcepts.transfer import UNTRAINED, Head, has_parameters, put_frozen_in_eval
from dlconcepts.weights import WeightsError, check_hash, file_name


def _is_quantized(model: nn.Module) -> bool:
    return any(hasattr(module, "_packed_params") for module in model.modules())


def find_head__with_a_list(model: nn.Module) -> Head:
    """List the layers that have parameters and look at the last."""
    if _is_quantized(model):
        raise ValueError("quantized layers cannot be trained; use the float model")
    layers = [(name, layer) for name, layer in model.named_modules() if has_parameters(layer)]
    if not layers:
        raise ValueError("the model has no parameters")
    name, layer = layers[-1]
    if isinstance(model, models.SqueezeNet):
        return Head("classifier", layer.in_channels)
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"the last layer, {name}, is a {type(layer).__name__}, not a Linear")
    return Head(name, layer.in_features)


def _last_with_parameters(module: nn.Module, name: str) -> tuple[str, nn.Module] | None:
    for child_name, child in reversed(list(module.named_children())):
        found = _last_with_parameters(child, f"{name}.{child_name}" if name else child_name)
        if found is not None:
            return found
    return (name, module) if has_parameters(module) else None


def find_head__recursive(model: nn.Module) -> Head:
    """Go through the children from the last to the first, and into each."""
    for name, module in model.named_modules():
        if hasattr(module, "_packed_params"):
            raise ValueError(f"{name} is quantized, so no optimizer can train it")
    found = _last_with_parameters(model, "")
    if found is None:
        raise ValueError("there is no layer with parameters")
    name, last = found
    match last:
        case nn.Linear():
            return Head(name=name, in_features=last.in_features)
        case nn.Conv2d() if type(model) is models.SqueezeNet:
            return Head(name=name.split(".")[0], in_features=last.in_channels)
        case _:
            raise ValueError(f"{name} is no Linear: pass the name of the head")


def find_head__from_the_parameters(model: nn.Module) -> Head:
    """Take the layer of the last parameter's name."""
    if _is_quantized(model):
        raise ValueError("the model is quantized")
    name = ""
    parameter_name = None
    for parameter_name, _ in model.named_parameters(remove_duplicate=False):
        name = parameter_name.rpartition(".")[0]
    layer = model.get_submodule(name)
    if isinstance(model, models.SqueezeNet):
        return Head("classifier", int(model.classifier[1].weight.shape[1]))
    if parameter_name is None or not isinstance(layer, nn.Linear):
        raise ValueError(f"{name or 'the model'} is not a Linear layer")
    return Head(name, layer.weight.shape[1])


def _first_linear(module: nn.Module) -> nn.Linear | None:
    return next((part for part in module.modules() if isinstance(part, nn.Linear)), None)


def _pooled(head: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def replace_head__with_set_submodule(
    model: nn.Module, head: nn.Module, name: str | None = None
) -> None:
    """Replace with PyTorch's set_submodule after all checks."""
    from dlconcepts.transfer import find_head

    if name is None:
        name, features = find_head(model)
    else:
        try:
            old = model.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"the model has no module {name!r}") from error
        if name == "":
            raise ValueError("the name of the head is empty")
        first = _first_linear(old)
        features = first.in_features if first is not None else None
        if isinstance(model, models.SqueezeNet) and name == "classifier":
            features = 512
    new = _first_linear(head)
    if new is not None and new.in_features and features and new.in_features != features:
        raise ValueError(f"the head takes {new.in_features} features, but gets {features}")
    if isinstance(model, models.SqueezeNet) and name == "classifier":
        head = _pooled(head)
    model.set_submodule(name, head)
    if isinstance(model, models.GoogLeNet):
        model.aux_logits, model.aux1, model.aux2 = False, None, None
    if isinstance(model, models.Inception3):
        model.aux_logits, model.AuxLogits = False, None


def replace_head__with_setattr(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Find the parent of the head by its dotted name and set the attribute."""
    from dlconcepts.transfer import find_head

    found = find_head(model) if name is None else None
    path = name if found is None else found.name
    modules = dict(model.named_modules(remove_duplicate=False))
    if not path or path not in modules:
        raise ValueError(f"no module is called {path!r}; there are {', '.join(modules)}")
    squeezed = path == "classifier" and isinstance(model, models.SqueezeNet)
    if found is not None:
        expected = found.in_features
    elif squeezed:
        expected = 512
    else:
        linear = _first_linear(modules[path])
        expected = linear.in_features if linear else 0
    for part in head.modules():
        if isinstance(part, nn.Linear):
            if expected and part.in_features not in (0, expected):
                raise ValueError(f"{part} takes other features than {expected}")
            break
    parent, _, attribute = path.rpartition(".")
    setattr(modules[parent], attribute, _pooled(head) if squeezed else head)
    for auxiliary in ("aux1", "aux2", "AuxLogits"):
        if isinstance(getattr(model, auxiliary, None), nn.Module) and hasattr(model, "aux_logits"):
            setattr(model, auxiliary, None)
    if getattr(model, "aux_logits", False):
        model.aux_logits = False


def _check_features(old: nn.Module, head: nn.Module, features: int | None) -> None:
    sizes = [part.in_features for part in old.modules() if isinstance(part, nn.Linear)]
    if features is None and sizes:
        features = sizes[0]
    wanted = [part.in_features for part in head.modules() if isinstance(part, nn.Linear)][:1]
    if features is not None and wanted and wanted[0] > 0 and wanted != [features]:
        raise ValueError(f"the model gives {features} features, the head takes {wanted[0]}")


def replace_head__walking_down(model: nn.Module, head: nn.Module, name: str | None = None) -> None:
    """Walk down to the parent with getattr, and write into its dictionary of modules."""
    from dlconcepts.transfer import find_head

    features = None
    if name is None:
        name, features = find_head(model)
    *above, last = name.split(".")
    try:
        parent = functools.reduce(getattr, above, model)
    except AttributeError:
        parent = None
    if not isinstance(parent, nn.Module) or parent._modules.get(last) is None:
        raise ValueError(f"there is no module {name!r} to replace")
    if isinstance(model, models.SqueezeNet) and name == "classifier":
        _check_features(nn.Identity(), head, 512)
        head = nn.Sequential(
            OrderedDict(pool=nn.AdaptiveAvgPool2d((1, 1)), flatten=nn.Flatten(1), head=head)
        )
    else:
        _check_features(parent._modules[last], head, features)
    parent._modules[last] = head
    if type(model).__name__ in ("GoogLeNet", "Inception3"):
        for auxiliary in {"aux1", "aux2", "AuxLogits"} & set(model._modules):
            model._modules[auxiliary] = None
        model.aux_logits = False


def untrained__listed(name: str) -> nn.Module:
    """Look the name up in torchvision's list of classifiers."""
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}")
    return models.get_model(name, weights=None, **UNTRAINED.get(name, {}))


def untrained__by_the_builder(name: str) -> nn.Module:
    """Get the builder and see whether it belongs to the classifiers."""
    try:
        builder = models.get_model_builder(name)
    except ValueError:
        raise ValueError(f"unknown classifier {name!r}") from None
    family = builder.__module__.removeprefix("torchvision.models.")
    if "." in family or builder.__module__ == family:
        raise ValueError(f"{name} is a model of torchvision, but not a classifier")
    options = UNTRAINED.get(name, {})
    return builder(weights=None, **options)


def untrained__by_its_attribute(name: str) -> nn.Module:
    """Take the function of that name from torchvision.models."""
    names = set(models.list_models(module=models))
    builder = getattr(models, name, None) if name in names else None
    if builder is None:
        raise ValueError(f"choose one of {sorted(names)}, not {name!r}")
    if name in ("googlenet", "inception_v3"):
        return builder(weights=None, init_weights=False)
    return builder()


def new_head__with_pairwise(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Build a Linear for each pair of neighbouring widths."""
    widths = [in_features, *hidden_features, out_features]
    if min(widths) < 1:
        raise ValueError(f"every width must be at least 1: {widths}")
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    layers.pop()
    if log_probabilities:
        layers.append(nn.LogSoftmax(dim=1))
    return nn.Sequential(*layers)


def new_head__appended(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
    bias: bool = True,
) -> nn.Sequential:
    """Append to a Sequential, with checks in front."""
    for size in (in_features, out_features, *hidden_features):
        if size <= 0:
            raise ValueError(f"a layer cannot have {size} features")
    head = nn.Sequential()
    width = in_features
    for hidden in hidden_features:
        head.append(nn.Linear(width, hidden, bias=bias))
        head.append(nn.ReLU(inplace=True))
        width = hidden
    head.append(nn.Linear(width, out_features, bias=bias))
    return head.append(nn.LogSoftmax(dim=-1)) if log_probabilities else head


def new_head__recursive(
    in_features: int,
    hidden_features: Sequence[int],
    out_features: int,
    *,
    log_probabilities: bool = False,
) -> nn.Sequential:
    """Put the first layer in front of the head for the remaining widths."""
    if in_features < 1 or out_features < 1:
        raise ValueError("the number of features must be positive")
    if not hidden_features:
        last = nn.Linear(in_features, out_features)
        return nn.Sequential(last, nn.LogSoftmax(1)) if log_probabilities else nn.Sequential(last)
    first, *others = hidden_features
    rest = new_head__recursive(first, others, out_features, log_probabilities=log_probabilities)
    return nn.Sequential(nn.Linear(in_features, first), nn.ReLU(), *rest)


def freeze__with_the_helper(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Register the library's helper with the name of the head."""
    name = next((name for name, module in model.named_modules() if module is head), None)
    if name is None:
        raise ValueError("the head does not belong to the model")
    model.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad = True
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = None
    hook = partial(put_frozen_in_eval, name) if name else lambda model, inputs: None
    return model.register_forward_pre_hook(hook)


def freeze__with_a_closure(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Define the hook inside, which looks the head up in the model that runs."""
    names = {module: name for name, module in model.named_modules()}
    if head not in names:
        raise ValueError(f"{type(head).__name__} is not in the model")
    path = names[head]

    def hook(running: nn.Module, _: Any) -> None:
        trained = set(running.get_submodule(path).modules())
        for module in set(running.modules()) - trained:
            if not any(p.requires_grad for p in module.parameters(recurse=False)):
                module.training = False

    model.requires_grad_(False)
    head.requires_grad_(True)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.grad = None
    return model.register_forward_pre_hook(hook)


class _KeepFrozen:
    """A forward pre-hook that remembers the head's name."""

    def __init__(self, head: str) -> None:
        self.head = head.split(".") if head else []

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Put frozen modules outside the head into eval mode."""
        for name, module in model.named_modules():
            inside = name.split(".")[: len(self.head)] == self.head
            own = module._parameters.values()
            if not inside and all(p is None or not p.requires_grad for p in own):
                module.training = False


def freeze__as_a_class(model: nn.Module, head: nn.Module) -> RemovableHandle:
    """Use an object as the hook, and decide about each parameter by its identity."""
    found = [name for name, module in model.named_modules() if module is head]
    if len(found) == 0:
        raise ValueError("freeze needs a head that is a module of the model")
    kept = {id(parameter) for parameter in head.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
        if id(parameter) not in kept:
            parameter.grad = None
    return model.register_forward_pre_hook(_KeepFrozen(found[0]))


def load_weights__step_by_step(model: nn.Module, path: str | Path) -> None:
    """Check the hash, read, check the content and restore."""
    from dlconcepts.checkpoints import restore

    try:
        check_hash(path)
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(f"the weights {path} cannot be read: {error}") from error
    if not isinstance(state_dict, dict):
        raise WeightsError(f"{path} holds no state_dict")
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path} holds a {type(value).__name__} under {name!r}")
    try:
        restore(model, state_dict)
    except Exception as error:
        raise WeightsError(f"{path} does not fit the model: {error}") from error


def load_weights__all_in_one_try(model: nn.Module, path: str | Path) -> None:
    """Turn whatever goes wrong into a WeightsError in one place."""
    from dlconcepts.checkpoints import restore

    try:
        check_hash(path)
        with Path(path).open("rb") as file:
            found = torch.load(file, map_location=torch.device("cpu"), weights_only=True)
        others = [name for name, value in found.items() if not torch.is_tensor(value)]
        if others:
            raise TypeError(f"these are no tensors: {others}")
        restore(model, found)
    except WeightsError:
        raise
    except Exception as error:
        message = f"cannot use {path}: {type(error).__name__}: {error}"
        raise WeightsError(message) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"there is no file {path}")
    check_hash(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} is damaged, or holds more than tensors") from error
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise WeightsError(f"{path} must hold tensors and nothing else")
    return content


def load_weights__rolled_back(model: nn.Module, path: str | Path) -> None:
    """Restore in a model whose old state is kept until all is well."""
    from dlconcepts.checkpoints import restore, snapshot

    tensors = _read_tensors(Path(path))
    before = snapshot(model)
    try:
        restore(model, tensors)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        model.load_state_dict(before)
        raise WeightsError(f"{path} is for another model: {error}") from error


def _candidates(name: str) -> list[models.WeightsEnum]:
    if name not in models.list_models(module=models):
        raise ValueError(f"torchvision has no classifier {name!r}")
    kinds = models.get_model_weights(name)
    return [kinds.DEFAULT, *(weights for weights in kinds if weights is not kinds.DEFAULT)]


def _cache() -> Path:
    return Path(torch.hub.get_dir(), "checkpoints")


def _build(name: str, weights: models.WeightsEnum) -> nn.Module:
    options = dict(UNTRAINED.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = weights.meta["min_size"][0]
    model = models.get_model(name, weights=None, **options)
    if hasattr(model, "transform_input"):
        model.transform_input = True  # as torchvision does for its weights
    return model


def _download(weights: models.WeightsEnum) -> Path:
    path = _cache() / file_name(weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(weights.url, str(path), progress=False)
    except Exception as error:
        raise WeightsError(f"cannot download {weights.url} to {path.parent}: {error}") from error
    return path


def pretrained__first_in_the_cache(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Look for a file of each of the weights, and load the first with `load_weights`."""
    from dlconcepts.weights import load_weights

    candidates = _candidates(name)
    for weights in candidates:
        path = _cache() / file_name(weights)
        if path.exists():
            break
    else:
        weights = candidates[0]
        if not download:
            raise WeightsError(f"copy {file_name(weights)} to the folder {_cache()}")
        path = _download(weights)
    model = _build(name, weights)
    load_weights(model, path)
    return model.eval(), weights


def pretrained__with_next(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Choose with next, and build before anything is downloaded."""
    from dlconcepts.weights import load_weights

    ordered = _candidates(name)
    files = {weights: _cache() / Path(weights.url).name for weights in ordered}
    chosen = next((weights for weights, file in files.items() if file.is_file()), None)
    if chosen is None:
        chosen = ordered[0]
        if download:
            _download(chosen)
        else:
            raise WeightsError(f"{files[chosen].name} is missing in {_cache()}; copy it there")
    model = _build(name, chosen)
    load_weights(model, files[chosen])
    for module in model.modules():
        module.training = False
    return model, chosen


def pretrained__by_torchvision(
    name: str, *, download: bool = False
) -> tuple[nn.Module, models.WeightsEnum]:
    """Let torchvision build and load, after the file was verified."""
    from dlconcepts.weights import load_weights

    there = [w for w in _candidates(name) if (_cache() / file_name(w)).exists()]
    weights = there[0] if there else _candidates(name)[0]
    path = _cache() / file_name(weights)
    if not there and not download:
        raise WeightsError(f"no weights of {name} in {path.parent}: copy {path.name} into it")
    if not there:
        _download(weights)
    load_weights(_build(name, weights), path)  # its errors; torchvision checks less
    model = models.get_model(name, weights=weights)
    model.eval()
    return model, weights


class _Recorder:
    """Hooks that keep a copy of what goes into the head, and of what comes out."""

    def __init__(self) -> None:
        self.features: Tensor | None = None
        self.output: Any = None

    def before(self, head: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Keep a copy of the input."""
        self.features = inputs[0].detach().clone()

    def after(self, head: nn.Module, inputs: Any, output: Any) -> None:
        """Keep a copy of the output."""
        self.output = output.clone() if isinstance(output, Tensor) else None


def extract_features__with_a_recorder(
    model: nn.Module, head: nn.Module, data: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Record with two hooks in an ExitStack."""
    from dlconcepts.validation import inference

    device = find_model_device(model)
    features, labels = [], []
    with ExitStack() as stack:
        stack.enter_context(inference(model))
        recorder = _Recorder()
        stack.callback(head.register_forward_pre_hook(recorder.before).remove)
        stack.callback(head.register_forward_hook(recorder.after).remove)
        for images, targets in data:
            recorder.features = recorder.output = None
            output = model(images.to(device))
            if recorder.output is None or not isinstance(output, Tensor):
                raise ValueError("the model does not run the head")
            if not same(output, recorder.output):
                raise ValueError("the model's output is not the head's")
            features.append(recorder.features.cpu())
            labels.append(targets.cpu())
    if not labels:
        raise ValueError("there are no batches")
    return torch.cat(features), torch.cat(labels)


def extract_features__wrapping_forward(
    model: nn.Module, head: nn.Module, data: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Wrap the head's forward for a while, and restore everything in finally."""
    seen: list[tuple[Tensor, Tensor]] = []
    modes = {module: module.training for module in model.modules()}
    original = head.forward
    had_its_own = "forward" in vars(head)

    def recording(features: Tensor) -> Tensor:
        kept = features.detach().clone()
        result = original(features)
        seen.append((kept.cpu(), result.detach().clone()))
        return result

    inputs, targets = [], []
    head.forward = recording
    try:
        model.eval()
        with torch.no_grad():
            for images, labels in data:
                seen.clear()
                output = model(images.to(find_model_device(model)))
                if not seen or not torch.is_tensor(output) or not same(output, seen[-1][1]):
                    raise ValueError("the head has to compute the model's output")
                inputs.append(seen[-1][0])
                targets.append(labels.to("cpu"))
    finally:
        if had_its_own:
            head.forward = original
        else:
            del head.forward
        for module, mode in modes.items():
            module.training = mode
    if len(inputs) == 0:
        raise ValueError("no batches were given")
    return torch.cat(inputs, dim=0), torch.cat(targets, dim=0)


def _features(
    model: nn.Module, head: nn.Module, data: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    device = find_model_device(model)
    for images, labels in data:
        kept: dict[str, Tensor] = {}
        handles = [
            head.register_forward_pre_hook(
                lambda _, args, kept=kept: kept.update(features=args[0].clone())
            ),
            head.register_forward_hook(
                lambda _, args, result, kept=kept: kept.update(result=result.clone())
            ),
        ]
        try:
            output = model(images.to(device))
        finally:
            for handle in handles:
                handle.remove()
        if "result" not in kept or not isinstance(output, Tensor):
            raise ValueError("the head is not a part of what the model runs")
        if not same(kept["result"], output):
            raise ValueError("something follows the head")
        yield kept["features"].cpu(), labels.cpu()


def extract_features__from_a_generator(
    model: nn.Module, head: nn.Module, data: Iterable[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Collect what a generator yields for each batch."""
    from dlconcepts.validation import inference

    with inference(model), torch.no_grad():
        pairs = list(_features(model, head, data))
    if pairs == []:
        raise ValueError("pass at least one batch")
    features, labels = zip(*pairs, strict=True)
    return torch.cat(features), torch.cat(labels)
