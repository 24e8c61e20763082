"""Projects of Lightning, transformers, accelerate, skorch and fastai; see `tox -e adapters`."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dlconcepts import checks

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
TOKENS = torch.randint(1, 30, (24, 7), generator=torch.Generator().manual_seed(0))
ROWS = [{"input_ids": row, "labels": label} for row, label in zip(TOKENS, Y, strict=True)]


def judged(parts, *passing):
    """Return the laws that fail; those that are named must pass."""
    report = checks.check(**parts)
    assert not report.errors
    assert [name for name in passing if report[name].status != "passed"] == []
    return {result.check for result in report.failed}


def net(softmax=False):
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3)]
    return nn.Sequential(*layers, *([nn.Softmax(dim=-1)] if softmax else []))


# ------------------------------------------------------------------------ Lightning


def lightning_project(change):
    lightning = pytest.importorskip("lightning", reason="needs Lightning: tox -e adapters")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.losses = net(), []
            if change == "unused":
                self.extra = nn.Linear(6, 6)

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.log("loss", loss)
            if change == "keeps":
                self.losses.append(loss)
            return loss

        def validation_step(self, batch, _):
            self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self):
            trained = self.net[0] if change == "a part" else self
            optimizer = torch.optim.Adam(trained.parameters())
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(TensorDataset(X, Y), 8, shuffle=True)

        def val_dataloader(self):
            return DataLoader(TensorDataset(X, Y), 8)

    return checks.from_lightning(Module(), Data())


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("", set()),
        ("unused", {"every-parameter-gets-a-gradient"}),
        ("keeps", {"the-loss-is-kept-as-a-number"}),
        ("a part", {"the-optimizer-holds-the-model"}),
    ],
)
def test_a_module_of_lightning_is_judged_in_one_line(change, broken):
    """Its own Trainer trains and validates copies of it."""
    passing = () if change else ("a-step-follows-its-own-batch", "every-example-counts-once")
    assert judged(lightning_project(change), *passing) == broken


# ------------------------------------------------------------------------ transformers


def bert(unused=False):
    transformers = pytest.importorskip("transformers", reason="needs transformers: tox -e adapters")
    sizes = dict.fromkeys(("hidden_size", "intermediate_size"), 16)
    layers = dict.fromkeys(("num_hidden_layers", "num_attention_heads"), 1)
    config = transformers.BertConfig(vocab_size=30, num_labels=3, **sizes, **layers)
    model = transformers.BertForSequenceClassification(config)
    if unused:
        model.extra = nn.Linear(16, 16)
    return transformers, model


def accuracy(found):
    return {"accuracy": (found.predictions.argmax(axis=-1) == found.label_ids).mean()}


@pytest.mark.parametrize("unused", [False, True])
def test_a_trainer_of_transformers_is_judged_in_one_line(tmp_path, unused):
    """The loss is the model's own, and the batches are dictionaries."""
    transformers, model = bert(unused)
    arguments = transformers.TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    trainer = transformers.Trainer(
        *(model, arguments), train_dataset=ROWS, eval_dataset=ROWS, compute_metrics=accuracy
    )

    broken = {"every-parameter-gets-a-gradient"} if unused else set()
    passing = ("a-step-follows-its-own-batch", "examples-stay-apart", "every-example-counts-once")
    assert judged(checks.from_transformers(trainer), *passing) == broken


@pytest.mark.parametrize("zeroes", [True, False])
def test_a_loop_over_dictionaries_needs_no_adapter(zeroes):
    """A model, a loader, an optimizer and a loop are enough."""
    _, model = bert()

    def fit(model, loader, loss_fn, optimizer):
        model.train()
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            if zeroes:
                optimizer.zero_grad()

    parts = {"model": model, "loader": DataLoader(ROWS, 6, shuffle=True), "fit": fit}
    broken = set() if zeroes else {"a-step-follows-its-own-batch"}
    assert judged(parts | {"optimizer": torch.optim.AdamW(model.parameters())}) == broken


# ------------------------------------------------------------------------ accelerate


@pytest.mark.parametrize("zeroes", [True, False])
def test_prepared_parts_of_accelerate_need_no_adapter(zeroes):
    """The steps of the optimizer that accelerate wraps are counted."""
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate: tox -e adapters")
    accelerator, model = accelerate.Accelerator(cpu=True), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(TensorDataset(X, Y), 8, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    def fit(model, loader, loss_fn, optimizer):
        model.train()
        for inputs, targets in loader:
            accelerator.backward(loss_fn(model(inputs), targets))
            optimizer.step()
            if zeroes:
                optimizer.zero_grad()

    parts = {"model": model, "loader": loader, "optimizer": optimizer, "fit": fit}
    broken = set() if zeroes else {"a-step-follows-its-own-batch"}
    assert judged(parts | {"loss_fn": nn.CrossEntropyLoss()}) == broken


# ------------------------------------------------------------------------ skorch


@pytest.mark.parametrize(
    ("softmax", "loss", "broken"),
    [
        (False, nn.CrossEntropyLoss, set()),
        (True, nn.NLLLoss, set()),
        (True, nn.CrossEntropyLoss, {"cross-entropy-is-given-logits"}),
    ],
)
def test_a_net_of_skorch_is_judged_in_one_line(softmax, loss, broken):
    """Skorch takes the logarithm for NLLLoss itself."""
    skorch = pytest.importorskip("skorch", reason="needs skorch: tox -e adapters")
    classifier = skorch.NeuralNetClassifier(net, module__softmax=softmax, criterion=loss)

    parts = checks.from_skorch(classifier, X.numpy(), Y.numpy())

    assert judged(parts, "a-step-follows-its-own-batch", "every-example-counts-once") == broken


# ------------------------------------------------------------------------ fastai


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("", set()),
        ("softmax", {"cross-entropy-is-given-logits"}),
        ("a part", {"the-optimizer-holds-the-model"}),
        ("writes", {"inputs-are-left-alone"}),
    ],
)
def test_a_learner_of_fastai_is_judged_in_one_line(change, broken):
    """Its callbacks see the training of the copies, and the learner stays as it was."""
    fastai = pytest.importorskip("fastai.basics", reason="needs fastai: tox -e adapters")

    class Counts(fastai.Callback):
        def after_batch(self):
            self.learn.model[0].seen = True

    items = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
    dls = fastai.DataLoaders.from_dsets(items, items, bs=8, device="cpu")
    model = net(softmax=change == "softmax")
    if change == "writes":
        model.insert(0, nn.ReLU(inplace=True))
    part = (lambda m: list(m[0].parameters())) if change == "a part" else fastai.trainable_params
    loss = fastai.CrossEntropyLossFlat()
    learner = fastai.Learner(dls, model, loss_func=loss, splitter=part, cbs=[Counts()])

    passing = () if change else ("data-is-the-same-when-read-again", "every-example-counts-once")
    assert judged(checks.from_fastai(learner), *passing) == broken
    assert learner.opt is None
    assert not hasattr(model[0], "seen")
