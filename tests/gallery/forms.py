"""Batches and loops as projects have them: dictionaries, graphs, detection, several optimizers."""

import copy
import dataclasses
from collections import UserDict, namedtuple
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from tests.gallery.base import Network, arrays, correct, mistake, project, save, train_step
from tests.gallery.loss import fit_with


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loop(model, loader, step, **changes):
    """Return the parts of a project whose fit takes this step with each batch of its loader."""

    def fit(model, loader, loss_fn, optimizer):
        model.train()
        for batch in loader:
            optimizer.zero_grad()
            step(model, batch, loss_fn).backward()
            optimizer.step()

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"model": model, "loader": loader, "optimizer": optimizer, "fit": fit} | changes


def loader_of(wrap, collate=None):
    """Return a loader of the first twelve examples, whose batches are wrapped."""
    data = TensorDataset(torch.from_numpy(arrays()[0]), torch.arange(12) % 3)

    def collated(items):
        return wrap(*torch.utils.data.default_collate(items))

    return DataLoader(data, 6, shuffle=True, collate_fn=collated)


# ------------------------------------------------------------------------ forms of a batch


def evaluates(inputs_of, targets_of):
    """Return an evaluate that takes the parts of its batches so."""

    def evaluate(model, loader, loss_fn):
        model.eval()
        right = count = 0
        with torch.no_grad():
            for batch in loader:
                found = model(inputs_of(batch)).argmax(dim=1) == targets_of(batch)
                right, count = right + found.sum().item(), count + len(found)
        return right / count

    return evaluate


def dictionary(x, y):
    return {"image": x, "label": y}


def of_dictionaries(model):
    """Return a project whose batches are dictionaries."""
    return loop(
        model,
        loader_of(dictionary),
        lambda model, batch, loss_fn: loss_fn(model(batch["image"]), batch["label"]),
        loss_fn=nn.CrossEntropyLoss(),
        evaluate=evaluates(lambda batch: batch["image"], lambda batch: batch["label"]),
    )


@correct
def batches_that_are_dictionaries():
    """The loader gives dictionaries, and the model takes one of the entries."""
    return of_dictionaries(Network())


@mistake("cross-entropy-is-given-logits", "sum to 1 in each row", batches_that_are_dictionaries)
def softmax_before_cross_entropy_of_a_dictionary():
    """The batches are dictionaries, and the network ends in softmax."""
    return of_dictionaries(nn.Sequential(Network(), nn.Softmax(dim=1)))


Pair = namedtuple("Pair", "text label")


@correct
def batches_that_are_named_tuples():
    """The loader gives named tuples, as torchtext did."""
    return loop(
        Network(),
        loader_of(Pair),
        lambda model, batch, loss_fn: loss_fn(model(batch.text), batch.label),
        loss_fn=nn.CrossEntropyLoss(),
        evaluate=evaluates(lambda batch: batch.text, lambda batch: batch.label),
    )


@dataclasses.dataclass
class Sample:
    """A batch as a data class."""

    image: torch.Tensor
    target: torch.Tensor


@correct
def batches_that_are_data_classes():
    """The loader gives data classes."""
    return loop(
        Network(),
        loader_of(Sample),
        lambda model, batch, loss_fn: loss_fn(model(batch.image), batch.target),
        loss_fn=nn.CrossEntropyLoss(),
        evaluate=evaluates(lambda batch: batch.image, lambda batch: batch.target),
    )


class Encoding(UserDict):
    """A batch as a tokenizer returns it."""

    def to(self, device):
        return Encoding({name: value.to(device) for name, value in self.data.items()})


class Computes(Network):
    """A model that computes its loss if it is given labels, as those of transformers do."""

    def forward(self, values=None, mask=None, labels=None):
        logits = super().forward(values * mask)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"logits": logits} | ({} if loss is None else {"loss": loss})


def encoding(x, y):
    return Encoding(values=x, mask=torch.ones_like(x), labels=y, text=["a"] * len(y))


def own_loss(model, batch, loss_fn):
    batch.pop("text")
    return model(**batch)["loss"]


def evaluates_named(model, loader, loss_fn):
    model.eval()
    right = count = 0
    for batch in loader:
        with torch.no_grad():
            found = model(batch["values"], batch["mask"])["logits"].argmax(1) == batch["labels"]
        right, count = right + found.sum().item(), count + len(found)
    return {"accuracy": right / count}


@correct
def a_model_that_computes_its_loss():
    """The model returns a loss if the batch, which has a column of text too, has labels."""
    return loop(Computes(), loader_of(encoding), own_loss, evaluate=evaluates_named)


class Forgets(Computes):
    """A model with a layer that its forward does not use."""

    def __init__(self):
        super().__init__()
        self.pooler = nn.Linear(8, 8)


@mistake("every-parameter-gets-a-gradient", "pooler.weight", a_model_that_computes_its_loss)
def a_layer_without_a_gradient_in_the_models_own_loss():
    """A layer of a model that computes its loss itself is never used."""
    return loop(Forgets(), loader_of(encoding), own_loss, evaluate=evaluates_named)


class Detects(nn.Module):
    """A detector: a dictionary of losses in training, a list of predictions in eval mode."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3, padding=1)
        self.box, self.label = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, images, targets=None):
        pooled = torch.stack([self.body(image[None])[0].mean(dim=(1, 2)) for image in images])
        boxes, scores = self.box(pooled), self.label(pooled)
        if self.training:
            known = torch.stack([target["boxes"][0] for target in targets])
            labels = torch.stack([target["labels"][0] for target in targets])
            return {"box": F.l1_loss(boxes, known), "label": F.cross_entropy(scores, labels)}
        pairs = zip(boxes, scores, strict=True)
        return [{"boxes": box[None], "scores": score.softmax(0)} for box, score in pairs]


def detection(step):
    """Return a project of object detection."""
    scenes = [
        (
            drawn(3, 6 + i % 3, 8, seed=i),
            {"boxes": drawn(1 + i % 2, 4, seed=i), "labels": torch.arange(1 + i % 2)},
        )
        for i in range(8)
    ]
    loader = DataLoader(scenes, 4, collate_fn=lambda items: tuple(zip(*items, strict=True)))
    return loop(Detects(), loader, step)


@correct
def lists_of_images_with_lists_of_boxes():
    """The batches are lists of images of several sizes, and of dictionaries."""
    return detection(lambda model, batch, loss_fn: sum(model(*batch).values()))


class Graph(SimpleNamespace):
    """A graph, as one object that can be moved."""

    def to(self, device):
        return Graph(**{name: value.to(device) for name, value in vars(self).items()})


class Convolves(nn.Module):
    """A graph convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, graph):
        start, end = graph.edges
        near = torch.zeros_like(graph.x).index_add(0, end, graph.x[start])
        return self.last(F.dropout(self.first(graph.x + near).relu(), training=self.training))


def loss_of_nodes(model, graph, loss_fn):
    return F.cross_entropy(model(graph), graph.y)


@correct
def a_graph():
    """The one batch is a graph, whose nodes depend on each other."""
    edges = torch.randint(0, 12, (2, 20), generator=torch.Generator().manual_seed(0))
    graph = Graph(x=torch.from_numpy(arrays()[0]), edges=edges, y=torch.arange(12) % 3)
    return loop(Convolves(), [graph], loss_of_nodes)


class Packed(nn.Module):
    """A classifier of packed sequences."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

    def forward(self, sequences):
        return self.head(self.gru(sequences)[1][-1])


@correct
def packed_sequences():
    """The inputs are packed sequences."""
    examples = [(drawn(5 - i // 3, 4, seed=i), torch.tensor(i % 3)) for i in range(12)]

    def packed(items):
        return pack_sequence([x for x, _ in items]), torch.stack([y for _, y in items])

    return loop(
        Packed(),
        DataLoader(examples, 6, collate_fn=packed),
        lambda model, batch, loss_fn: loss_fn(model(batch[0]), batch[1]),
        loss_fn=nn.CrossEntropyLoss(),
    )


class Sparse(nn.Module):
    """A linear layer on sparse inputs."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return torch.sparse.mm(x, self.layer.weight.t()) + self.layer.bias


@correct
def sparse_inputs():
    """The inputs are a sparse tensor."""
    batch = drawn(8, 4).relu().to_sparse(), torch.arange(8) % 3
    return {"model": Sparse(), "batch": batch, "loss_fn": nn.CrossEntropyLoss()}


@correct
def an_autoencoder_beside_its_labels():
    """The loader gives labels too, which an autoencoder ignores."""
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4))
    return loop(
        model,
        loader_of(lambda x, y: (x, y)),
        lambda model, batch, loss_fn: loss_fn(model(batch[0]), batch[0]),
        loss_fn=nn.MSELoss(),
    )


@correct
def an_autoencoder_told_where_its_targets_are():
    """`targets` says that the inputs are the targets."""
    return {
        "model": nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 4)),
        "batch": (torch.from_numpy(arrays()[0]), torch.arange(12)),
        "targets": lambda batch: batch[0],
        "loss_fn": nn.MSELoss(),
    }


@correct
def triplets():
    """The batches are three inputs without targets, and the loss takes three outputs."""
    anchors, near, far = (drawn(12, 4, seed=i) for i in range(3))
    return loop(
        Network(),
        DataLoader(TensorDataset(anchors, near, far), 6),
        lambda model, batch, loss_fn: loss_fn(*(model(part) for part in batch)),
        loss_fn=nn.TripletMarginLoss(),
    )


class Tagger(nn.Module):
    """An LSTM in its default layout, (time, batch)."""

    def __init__(self, flat=False):
        super().__init__()
        self.flat, self.embedding = flat, nn.Embedding(9, 5)
        self.lstm, self.head = nn.LSTM(5, 6), nn.Linear(6, 9)

    def forward(self, words):
        scores = self.head(self.lstm(self.embedding(words))[0])
        return scores.flatten(0, 1) if self.flat else scores


def flat_loss(scores, words):
    return F.cross_entropy(scores.reshape(-1, 9), words.reshape(-1))


def time_first(flat, **changes):
    """Return a language model whose inputs and targets are (time, batch)."""
    words = torch.randint(0, 9, (7, 4), generator=torch.Generator().manual_seed(0))
    after = words.roll(-1, 0).flatten() if flat else words.roll(-1, 0)
    model = Tagger(flat)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {"model": model, "batch": (words, after), "loss_fn": flat_loss, "optimizer": optimizer}
    return parts | {"train_step": train_step} | changes


@correct
def targets_with_the_time_first():
    """Inputs and targets are (time, batch), which cannot be told from (batch, time)."""
    return time_first(flat=False)


@correct
def flattened_targets_with_the_time_first():
    """The targets are (time * batch,)."""
    return time_first(flat=True)


@correct
def targets_with_the_time_first_as_batch_dim_says():
    """`batch_dim` says that the time comes first."""
    return time_first(flat=False, batch_dim=1)


@correct
def flattened_targets_as_batch_dim_says():
    """The targets are (time * batch,), and `batch_dim` says so."""
    return time_first(flat=True, batch_dim=1)


@correct
def a_sentence():
    """The only input is one sentence, (time,), without a dimension for examples."""
    words = torch.tensor([3, 1, 4, 1, 5])
    return {"model": Tagger(), "batch": (words, words.roll(-1)), "loss_fn": flat_loss}


# ------------------------------------------------------------------------ loops


class Gan(nn.Module):
    """A generator and a discriminator."""

    def __init__(self):
        super().__init__()
        self.make, self.judge = nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))

    def forward(self, x):
        return self.judge(x)


def adversarial(zeroes):
    """Return a GAN with two optimizers; its step may forget to clear the discriminator's."""
    model = Gan()
    pair = (
        torch.optim.SGD(model.judge.parameters(), 0.1),
        torch.optim.SGD(model.make.parameters(), 0.1),
    )

    def step(model, loss_fn, optimizers, real, _):
        of_judge, of_maker = optimizers
        fake = model.make(drawn(len(real), 2, seed=len(real)).to(real))
        ones = real.new_ones(len(real), 1)
        if zeroes:
            of_judge.zero_grad()
        judged = model(real), model(fake.detach())
        (loss_fn(judged[0], ones) + judged[1].exp().mean()).backward()
        of_judge.step()
        of_maker.zero_grad()
        loss_fn(model(fake), ones).backward()
        of_maker.step()

    loss_fn = nn.BCEWithLogitsLoss()
    parts = {"model": model, "batch": torch.from_numpy(arrays()[0]), "loss_fn": loss_fn}
    return parts | {"optimizer": pair, "train_step": step}


@correct
def two_optimizers():
    """A GAN has two optimizers, and no targets."""
    return adversarial(zeroes=True)


@mistake("a-step-follows-its-own-batch", "the weights are off by", two_optimizers)
def one_of_two_optimizers_never_zeroes():
    """The discriminator's gradients, also those of the generator's loss, are never cleared."""
    return adversarial(zeroes=False)


def scheduled(steps):
    """Return a project with an optimizer in a tuple with its schedule."""
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)

    def step(model, loss_fn, pair, inputs, targets):
        optimizer, schedule = pair
        optimizer.zero_grad()
        loss = loss_fn(model.train()(inputs), targets)
        loss.backward()
        if steps:
            optimizer.step()
        schedule.step()
        return loss.item()

    pair = {"optimizer": (optimizer, schedule), "train_step": step, "fit": fit_with(step)}
    return project(model=model, **pair, save=None, load=None)


@correct
def an_optimizer_in_a_tuple_with_its_schedule():
    """The optimizer comes with its schedule."""
    return scheduled(steps=True)


@mistake("a-step-follows-the-gradient", "not at all", an_optimizer_in_a_tuple_with_its_schedule)
def the_schedule_steps_alone():
    """The schedule is stepped, and the optimizer is not."""
    return scheduled(steps=False)


class Own:
    """An optimizer of one's own."""

    def __init__(self, parameters):
        self.parameters = list(parameters)

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None

    def step(self):
        with torch.no_grad():
            for parameter in self.parameters:
                parameter -= 0.1 * parameter.grad


@correct
def an_optimizer_of_ones_own():
    """The optimizer is a class with step and zero_grad."""
    model = Network()
    return project(model=model, optimizer=Own(model.parameters()), save=None, load=None)


def by_hand(model, loss_fn, _, inputs, targets):
    loss = loss_fn(model.train()(inputs), targets)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad
    return loss.item()


@correct
def steps_by_hand():
    """There is no optimizer."""
    parts = {"optimizer": None, "train_step": by_hand, "fit": fit_with(by_hand)}
    return project(**parts, save=None, load=None)


def returns_both(model, loss_fn, optimizer, inputs, targets):
    optimizer.zero_grad()
    outputs = model.train()(inputs)
    loss = loss_fn(outputs, targets)
    loss.backward()
    optimizer.step()
    return loss, outputs


@correct
def a_step_that_returns_loss_and_outputs():
    """The caller of the step decides what is kept."""
    return project(train_step=returns_both, fit=None)


def mixes_in_place(model, loss_fn, optimizer, inputs, targets):
    inputs.mul_(0.7).add_(inputs.flip(0).clone() / 0.7 * 0.3)
    return train_step(model, loss_fn, optimizer, inputs, targets)


@correct
def mixup_in_place():
    """Mixup writes into its batch, which the loader has made for it alone."""
    return project(train_step=mixes_in_place, fit=fit_with(mixes_in_place))


class Probed(Network):
    """A network with a second head, which forward does not use."""

    def __init__(self):
        super().__init__()
        self.probe = nn.Linear(8, 3)


def probes(model, loss_fn, optimizer, inputs, targets):
    optimizer.zero_grad()
    hidden = model.train().body(inputs)
    loss = loss_fn(model.head(hidden), targets) + loss_fn(model.probe(hidden.detach()), targets)
    loss.backward()
    optimizer.step()
    return loss.item()


@correct
def a_head_that_only_the_step_trains():
    """A linear probe is trained beside the network, by a loss of its own."""
    return project(model=Probed(), train_step=probes, fit=fit_with(probes), snapshot=None)


# ------------------------------------------------------------------------ models


class Variational(nn.Module):
    """An autoencoder that samples in eval mode, too."""

    def __init__(self):
        super().__init__()
        self.mean, self.spread, self.decode = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(2, 4)

    def forward(self, x):
        mean, spread = self.mean(x), self.spread(x)
        return self.decode(mean + torch.randn_like(mean) * (0.5 * spread).exp()), mean, spread


@correct
def a_variational_autoencoder_that_samples_in_eval_mode():
    """The model draws samples whose spread it computes."""
    return {"model": Variational(), "batch": torch.from_numpy(arrays()[0])}


DEVICE = torch.device("cpu")


class Placed(nn.Module):
    """A model that makes its states on the device of the script."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x):
        return self.gru(x, torch.zeros(1, len(x), 6).to(DEVICE))[0]


@correct
def states_on_the_device_of_the_script():
    """Forward names the device that the script chose."""
    return {"model": Placed(), "batch": drawn(8, 5, 4)}


class Grows(nn.Module):
    """A model whose inputs are views that require a gradient."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(1, 4, 2), nn.Linear(4, 3)

    def forward(self, x):
        wide = x[:, None]
        if self.training:
            wide.requires_grad = True
        return self.head(self.conv(wide).mean(dim=2))


@correct
def a_view_of_the_input_that_requires_a_gradient():
    """A view of the input is no unregistered tensor."""
    return {"model": Grows(), "batch": drawn(8, 6)}


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))


def save_model(model, path):
    torch.save(model.state_dict(), path)


def load_plain(path):
    model = net()
    state = torch.load(path, weights_only=True)
    model.load_state_dict({name.removeprefix("module."): x for name, x in state.items()})
    return model


def load_merged(path):
    model = net()
    state, known = model.state_dict(), torch.load(path, weights_only=True)
    model.load_state_dict(state | {name: x for name, x in known.items() if name in state})
    return model


def wrapped(load):
    return {"model": nn.DataParallel(net()), "save": save_model, "load": load}


@correct
def a_wrapped_model_whose_load_returns_the_plain_one():
    """The model is wrapped in DataParallel, and load removes the prefix."""
    return wrapped(load_plain)


@mistake(
    "a-checkpoint-holds-the-model",
    "the names in the file begin with 'module.'",
    a_wrapped_model_whose_load_returns_the_plain_one,
)
def names_with_a_prefix_are_dropped():
    """Load keeps the names that fit, and with the prefix of DataParallel none does."""
    return wrapped(load_merged)


def direct(model, loader, loss_fn):
    total = count = 0
    with torch.no_grad():
        for inputs, targets in loader:
            total += loss_fn(model.forward(inputs), targets).item() * len(targets)
            count += len(targets)
    return total / count


def direct_in_eval_mode(model, loader, loss_fn):
    was_training = model.training
    total = direct(model.eval(), loader, loss_fn)
    model.train(was_training)
    return total


@correct
def forward_called_directly():
    """The evaluation calls model.forward(x), not model(x)."""
    return project(evaluate=direct_in_eval_mode)


@mistake(
    "validation-is-in-eval-mode",
    "in training mode",
    forward_called_directly,
    "validation-changes-nothing",
)
def forward_called_directly_in_training_mode():
    """The evaluation calls model.forward(x) without eval()."""
    return project(evaluate=direct)


def dice(outputs, targets):
    chance = outputs.squeeze(1).sigmoid()
    return 1 - 2 * (chance * targets).sum() / (chance.sum() + targets.sum())


@correct
def a_squeeze_inside_a_dice_loss():
    """The loss removes the channel of (N, 1, H, W) itself, and sums over all pixels."""
    targets = (drawn(4, 6, 6, seed=1) > 0).float()
    return {
        "model": nn.Conv2d(3, 1, 3, padding=1),
        "batch": (drawn(4, 3, 6, 6), targets),
        "loss_fn": dice,
    }


def focal(outputs, targets):
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-losses.detach()).exp()) ** 2 * losses).mean()


@correct
def a_focal_loss():
    """The weights of a focal loss are detached on purpose."""
    return project(loss_fn=focal)


def ends_in_eval_mode(model, loader, loss_fn):
    return direct(model.eval(), loader, loss_fn)


@correct
def an_evaluation_at_the_end():
    """A script evaluates once, at its end; there is no fit that would show more."""
    step = {"train_step": train_step, "save": save, "fit": None, "load": None}
    return project(evaluate=ends_in_eval_mode, **step)


@correct
def weights_that_are_averaged():
    """A moving average of the weights is a copy of the model, in a closure."""
    model = Network()
    average = copy.deepcopy(model).requires_grad_(False)

    def step(model, loss_fn, optimizer, inputs, targets):
        loss = train_step(model, loss_fn, optimizer, inputs, targets)
        for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.1)
        return loss

    return project(model=model, train_step=step, fit=fit_with(step))
