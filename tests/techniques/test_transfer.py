"""Techniques of transfer: bad input, edge cases and speed, beyond the claims."""

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
from tests.transfer.common import Pretrained, build, images_for, nodes_of, watching


@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_classifier_of_torchvision_is_transferred(name: str) -> None:
    """The head is found and replaced, alone runs last, alone is trained, in train mode too."""
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


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_dropped(name: str) -> None:
    """In train mode the network gives the new head's scores alone, and has no other classifier."""
    model = build(name).train()
    replace_head(model, nn.Linear(find_head(model).in_features, 3, device="meta"))

    assert model(images_for(name, model)).shape == (2, 3)
    assert model.aux_logits is False
    assert not [part for part, _ in model.named_modules() if part.lower().startswith("aux")]


def test_the_head_of_a_squeezenet_gets_the_mean_of_each_map() -> None:
    """Its old head scored each place of the image; a new one gets one number for each channel."""
    model, head = models.squeezenet1_1().eval(), nn.Linear(512, 3)
    images = torch.randn(2, 3, 64, 64)

    found = find_head(model)
    replace_head(model, head)

    assert found == ("classifier", 512)
    torch.testing.assert_close(model(images), head(model.features(images).mean(dim=(2, 3))))


def test_a_head_may_be_any_module() -> None:
    """One without a Linear takes what comes."""
    model = models.resnet18()
    replace_head(model, nn.Identity())

    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


def test_a_transfer_network_trains_its_head_alone() -> None:
    """It gives scores for its own classes; its arguments build one like it."""
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
    """Return the shape of each parameter and buffer."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_without_a_classifier_the_network_begins_at_random() -> None:
    """Those too that torchvision would ask about the weights of, which is a warning."""
    assert isinstance(TransferNetwork("googlenet", [], 2).classifier, models.GoogLeNet)


@pytest.mark.parametrize("name", ["nonsense", "raft_small"])
def test_a_name_that_no_classifier_has_is_refused(name: str) -> None:
    """Neither are torchvision's models for other tasks."""
    with pytest.raises(ValueError, match=f"torchvision has no classifier '{name}'"):
        TransferNetwork(name, [], 2)


def leaves_of(tensor: Tensor) -> set[Tensor]:
    """Return the tensors at which the backward pass from a tensor ends."""
    return {node.variable for node in nodes_of(tensor) if hasattr(node, "variable")}


def test_a_head_of_two_layers_gives_logits_unless_log_probabilities_are_asked_for() -> None:
    """A size that is none is refused."""
    assert isinstance(new_head(4, [3], 2)[-1], nn.Linear)
    assert isinstance(new_head(4, [3], 2, log_probabilities=True)[-1], nn.LogSoftmax)
    with pytest.raises(ValueError, match=r"at least 1, but these are \[4, 0, 2\]"):
        new_head(4, [0], 2)


class HeadFirst(nn.Module):
    """A network whose head comes first, and whose dropout is a call that asks for its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.head(F.dropout(self.norm(images), training=self.training))
        return scores


def test_what_is_frozen_is_in_eval_mode_wherever_it_stands() -> None:
    """The layers after the head too, and the calls of the model itself."""
    model = HeadFirst()
    freeze(model, model.head)
    before = state_of(model)
    images = torch.randn(3, 4)

    scores = model.train()(images)

    assert scores.equal(model(images)), "nothing is dropped"
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
            "Pretrained has no module ''; it has stem, norm, dropout, fc",
        ),
        (lambda model: freeze(model, nn.Linear(4, 2)), "not a module of the model"),
        (lambda model: extract_features(model, model.fc, []), "no images"),
    ],
)
def test_bad_input_is_explained(change: Callable[[Pretrained], object], reason: str) -> None:
    """What does not fit is refused with a sentence, and the model stays as it was."""
    model = Pretrained("fc", 0.5, torch.float32)
    before, modules = state_of(model), list(model.named_modules())

    with pytest.raises(ValueError, match=reason):
        change(model)

    assert (state_of(model), list(model.named_modules())) == (before, modules)


def test_features_are_refused_where_the_head_is_not_the_end() -> None:
    """A layer that is not run, or that others follow, is not the head, and no hook stays on it."""
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
    """Mode, parameters, buffers and gradients are the same afterwards."""
    model = Pretrained("fc", 0.5, torch.float32).train()
    before = state_of(model)

    extract_features(model, model.fc, [(torch.ones(2, 3), torch.tensor([0, 1]))])

    assert state_of(model) == before


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "1, BatchNorm1d, not a Linear"),
        (nn.Sequential(nn.Linear(2, 2), nn.Conv2d(2, 2, 1)), "1, Conv2d, not a Linear"),
        (nn.Linear(2, 2), "the model itself, Linear"),
        (nn.ReLU(), "the model itself, ReLU"),
    ],
)
def test_a_model_without_a_head_is_explained(model: nn.Module, reason: str) -> None:
    """What is no Linear inside the model is not taken for its head."""
    with pytest.raises(ValueError, match=reason):
        find_head(model)


def test_a_quantized_model_is_refused() -> None:
    """Its layers hold integers that no optimizer trains, so none of its other layers is a head."""
    quantized = type("Linear", (nn.Module,), {"__module__": "torch.ao.nn.quantized.modules.linear"})
    model = nn.Sequential(nn.Linear(3, 3), quantized())

    with pytest.raises(ValueError, match="quantized"):
        find_head(model)


class RunsCode:
    """What, unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_that_hold_code_are_refused_and_the_code_does_not_run(tmp_path: Path) -> None:
    """The reason is torch's own, on one line."""
    torch.save({"weight": RunsCode(tmp_path / "made")}, tmp_path / "weights.pth")

    with pytest.raises(WeightsError) as caught:
        load_weights(nn.Linear(2, 2), tmp_path / "weights.pth")

    assert not (tmp_path / "made").exists(), "no code of the file runs"
    assert "weights.pth cannot be used: Weights only load fail" in str(caught.value)


def test_the_default_weights_are_named_first_and_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the name that torchvision recommends, of several that it has."""
    taken: list[models.WeightsEnum] = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    default = models.MobileNet_V2_Weights.IMAGENET1K_V2

    with pytest.raises(WeightsError, match=r"put mobilenet_v2-7ebf99e0.pth or mobilenet_v2-b0353"):
        pretrained("mobilenet_v2")
    monkeypatch.setattr(
        models, "get_model", lambda name, weights: taken.append(weights) or nn.Identity()
    )

    assert pretrained("mobilenet_v2", download=True)[1] == default
    assert taken == [default]


def test_a_name_that_is_no_classifier_is_refused() -> None:
    """A model for another task, or none, is an error that names it."""
    for name in ("resnet", "fcn_resnet50"):
        with pytest.raises(ValueError, match=f"no classifier '{name}'"):
            pretrained(name)
