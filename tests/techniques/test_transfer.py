"""Techniques of transfer: bad input and edge cases, beyond the claims."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from dlconcepts.support.bitwise import state_of
from dlconcepts.transfer import (
    TransferNetwork,
    extract_features,
    find_head,
    freeze,
    new_head,
    replace_head,
)
from dlconcepts.weights import WeightsError, load_weights, pretrained
from tests.transfer.common import (
    Pretrained,
    build,
    images_for,
    nodes_of,
    softmaxes_at_the_end,
    watching,
)


@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_classifier_of_torchvision_is_transferred(name: str) -> None:
    """In train mode the new head runs last, with no softmax, and is the only part trained."""
    model = build(name)
    place, in_features = find_head(model)
    old = model.get_submodule(place)

    with torch.device("meta"):
        head = new_head(in_features, [8], 3)
    replace_head(model, head)
    freeze(model, head)
    with watching(model.train()) as ran:
        scores = model(images_for(name, model))

    assert [layer for layer, _ in ran[-2:]] == [head[0], head[2]]
    assert old not in model.modules()
    assert scores.shape == (2, 3)
    trainable = {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert trainable == set(head.parameters())
    assert leaves_of(scores) == set(head.parameters())
    assert not softmaxes_at_the_end(scores)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_dropped(name: str) -> None:
    """In train mode the output is only the new head's scores; no auxiliary classifier is left."""
    model = build(name).train()
    replace_head(model, nn.Linear(find_head(model).in_features, 3, device="meta"))

    assert model(images_for(name, model)).shape == (2, 3)
    assert model.aux_logits is False
    assert not [part for part, _ in model.named_modules() if part.lower().startswith("aux")]


def test_a_new_head_of_a_squeezenet_gets_the_mean_of_each_channel() -> None:
    """The old head scored each position of the image; the new one gets one mean per channel."""
    model, head = models.squeezenet1_1().eval(), nn.Linear(512, 3)
    images = torch.randn(2, 3, 64, 64)

    found = find_head(model)
    replace_head(model, head)

    assert found == ("classifier", 512)
    torch.testing.assert_close(model(images), head(model.features(images).mean(dim=(2, 3))))


def test_a_head_may_be_any_module() -> None:
    """A head without a Linear layer is not checked for its number of features."""
    model = models.resnet18()
    replace_head(model, nn.Identity())

    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_a_transfer_network_trains_only_its_head() -> None:
    """It returns scores for its own classes, and its `architecture` builds a network like it."""
    classifier = models.shufflenet_v2_x0_5()
    model = TransferNetwork("shufflenet_v2_x0_5", [7], 3, classifier=classifier)
    like_it = TransferNetwork(**model.architecture)
    images = torch.randn(2, 3, 32, 32)

    scores = model(images)

    assert model.classifier is classifier
    assert model.head is classifier.fc
    assert [layer.out_features for layer in model.head if isinstance(layer, nn.Linear)] == [7, 3]
    assert scores.shape == (2, 3)
    assert leaves_of(scores) == {p for p in model.parameters() if p.requires_grad}
    assert leaves_of(scores) == set(model.head.parameters())
    assert shapes_of(like_it) == shapes_of(model)
    assert like_it.architecture == model.architecture


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_without_a_classifier_the_network_has_random_weights() -> None:
    """Not even GoogLeNet, whose random weights make torchvision warn, gives a warning."""
    assert isinstance(TransferNetwork("googlenet", [], 2).classifier, models.GoogLeNet)


@pytest.mark.parametrize("name", ["nonsense", "raft_small"])
def test_a_transfer_network_refuses_an_unknown_classifier(name: str) -> None:
    """An unknown name, or a model for another task, raises and is named."""
    with pytest.raises(ValueError, match=f"torchvision has no classifier '{name}'"):
        TransferNetwork(name, [], 2)


def leaves_of(tensor: Tensor) -> set[Tensor]:
    # The leaves at which the backward pass ends.
    return {node.variable for node in nodes_of(tensor) if hasattr(node, "variable")}


def test_a_new_head_ends_in_logits_unless_log_probabilities_are_requested() -> None:
    """Its last layer is a Linear or a LogSoftmax; a size of 0 raises."""
    assert isinstance(new_head(4, [3], 2)[-1], nn.Linear)
    assert isinstance(new_head(4, [3], 2, log_probabilities=True)[-1], nn.LogSoftmax)
    with pytest.raises(ValueError, match=r"at least 1, but these are \[4, 0, 2\]"):
        new_head(4, [0], 2)


class HeadFirst(nn.Module):
    """A network that creates its head first and calls F.dropout with its own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(F.dropout(self.norm(images), training=self.training))
        return scores


def test_every_frozen_module_is_in_eval_mode() -> None:
    """So are layers that come after the head, and the model itself, which calls F.dropout."""
    model = HeadFirst()
    freeze(model, model.head)
    before = state_of(model)
    images = torch.randn(3, 4)

    scores = model.train()(images)

    assert scores.equal(model(images)), "dropout is off"
    assert state_of(model)["norm.running_mean"] == before["norm.running_mean"]
    assert (model.training, model.norm.training, model.head.training) == (False, False, True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda model: replace_head(model, nn.Linear(5, 2)),
            "takes 5 features, but fc of Pretrained gets 4",
        ),
        (
            lambda model: replace_head(model, nn.Linear(4, 2), ""),
            "Pretrained has no module ''; choose from stem, conv, dropout, fc_norm, fc",
        ),
        (lambda model: freeze(model, nn.Linear(4, 2)), "not a module of the model"),
        (lambda model: extract_features(model, model.fc, []), "no images"),
    ],
)
def test_bad_input_is_explained(change: Callable[[Pretrained], object], reason: str) -> None:
    """Bad input raises with a reason, and the model stays as it was."""
    model = Pretrained("fc", 0.5, torch.float32)
    before, modules = state_of(model), list(model.named_modules())

    with pytest.raises(ValueError, match=reason):
        change(model)

    assert (state_of(model), list(model.named_modules())) == (before, modules)


def test_extracting_refuses_a_head_that_is_not_the_last_layer() -> None:
    """A layer that does not run, or that others follow, is refused, and no hook stays on it."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Softmax(dim=1))
    unused = Pretrained("fc", 0.0, torch.float32)
    unused.classifier = nn.Linear(4, 5)
    batch = torch.ones(2, 2), torch.tensor([0, 1])

    with pytest.raises(ValueError, match="not its head's"):
        extract_features(model, model[0], [batch])
    with pytest.raises(ValueError, match="not its head's"):
        extract_features(unused, unused.classifier, [(torch.ones(2, 3), batch[1])])

    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


def test_extracting_features_leaves_the_model_as_it_was() -> None:
    """Modes, parameters, buffers and gradients are the same afterwards."""
    model = Pretrained("fc", 0.5, torch.float32).train()
    before = state_of(model)

    extract_features(model, model.fc, [(torch.ones(2, 3), torch.tensor([0, 1]))])

    assert state_of(model) == before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "1, a BatchNorm1d, not a Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), "1, a Conv2d, not a Linear"),
        (nn.Linear(2, 2), "the model itself, a Linear"),
        (nn.ReLU(), "the model itself, a ReLU"),
    ],
)
def test_a_model_without_a_head_is_explained(model: nn.Module, reason: str) -> None:
    """Only a Linear inside the model is taken as its head."""
    with pytest.raises(ValueError, match=reason):
        find_head(model)


def test_a_quantized_model_is_refused() -> None:
    """No optimizer can train the integers of its layers, so another layer is not its head."""
    quantized = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    model = nn.Sequential(nn.Linear(3, 3), quantized())

    with pytest.raises(ValueError, match="quantized"):
        find_head(model)


class RunsCode:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_with_code_are_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    """The error says so, and does not repeat PyTorch's advice to switch the protection off."""
    torch.save({"weight": RunsCode(tmp_path / "made")}, tmp_path / "weights.pth")

    with pytest.raises(WeightsError) as caught:
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")

    assert not (tmp_path / "made").exists(), "the code in the file does not run"
    assert "weights.pth cannot be used: the file holds something other" in str(caught.value)
    assert "weights_only" not in str(caught.value)


def test_the_default_weights_are_named_first_and_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several weights, those that torchvision recommends are named first and downloaded."""
    taken: list[models.WeightsEnum] = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    default = models.MobileNet_V2_Weights.IMAGENET1K_V2

    with pytest.raises(WeightsError, match=r"copy mobilenet_v2-7ebf99e0.pth or mobilenet_v2-b0353"):
        pretrained("mobilenet_v2")
    monkeypatch.setattr(
        models, "get_model", lambda name, weights: taken.append(weights) or nn.Identity()
    )

    assert pretrained("mobilenet_v2", download=True)[1] == default
    assert taken == [default]


def test_weights_of_an_unknown_classifier_are_refused() -> None:
    """An unknown name, or a model for another task, raises and is named."""
    for name in ("resnet", "fcn_resnet50"):
        with pytest.raises(ValueError, match=f"no classifier '{name}'"):
            pretrained(name)
