"""Data is read, compared with itself, and watched while a project trains on it."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dlconcepts import checks
from dlconcepts.checks import data
from dlconcepts.checks.project import Project
from dlconcepts.checks.registry import BrokenLawError, CheckFailedError, NotCheckedError
from dlconcepts.checks.state import Snapshot

X, Y = torch.arange(40.0).reshape(20, 2), torch.arange(20)
SMALL = X[:3], Y[:3]


class Stream(IterableDataset):
    """Examples one after the other, without end unless one is given."""

    def __init__(self, end=None):
        """Remember the end."""
        self.end = end

    def __iter__(self):
        """Yield inputs and targets."""
        return (
            (torch.tensor([float(i)]), i) for i in itertools.islice(itertools.count(), self.end)
        )


class Loader:
    """Batches of whatever form, read as often as one likes."""

    def __init__(self, *batches):
        """Keep the batches."""
        self.batches = batches

    def __iter__(self):
        """Yield the batches."""
        return iter(self.batches)


# ------------------------------------------------------------------------ reading


def test_the_source_of_a_loader_is_its_data_set():
    """Anything else is the source itself."""
    pairs, loader = TensorDataset(X, Y), Loader()

    assert data.source_of(DataLoader(pairs, 2)) is pairs
    assert data.source_of(pairs) is pairs
    assert data.source_of(loader) is loader


@pytest.mark.parametrize(
    ("read", "parts"),
    [
        (lambda: data.read((X, Y)), 16),
        (lambda: data.read((X[:3], Y[:3])), 3),
        (lambda: data.read((X, Y), items=5, batches=2), 5),
        (lambda: data.read(TensorDataset(X, Y)), 16),
        (lambda: data.read(TensorDataset(*SMALL)), 3),
        (lambda: data.read(TensorDataset(X, Y), items=5, batches=2), 5),
        (lambda: data.read(Stream()), 8),
        (lambda: data.read(Stream(), items=2, batches=5), 5),
        (lambda: data.read(DataLoader(TensorDataset(X, Y), 2)), 8),
        (lambda: data.read(Loader(X, Y)), 2),
        (lambda: data.read([X, Y, X], items=1, batches=2), 2),
    ],
)
def test_a_part_of_the_data_is_read(read, parts):
    """The first 16 examples or the first 8 batches, if there are so many, or as many as asked."""
    assert len(list(read())) == parts


@pytest.mark.parametrize("source", [(X, Y), TensorDataset(X, Y)])
def test_examples_are_read_in_their_order(source):
    """Each with its target."""
    for (x, y), (inputs, target) in zip(data.read(source), zip(X, Y, strict=True), strict=False):
        assert torch.equal(x, inputs)
        assert y == target


def test_what_was_read_can_be_compared_after_it_is_written_to():
    """All bits of a structure, with the paths of its parts."""
    tree = {"x": torch.ones(2), "y": [3]}
    before = data.all_bits(tree)

    assert before == data.all_bits({"x": torch.ones(2), "y": [3]})
    assert [path for path, _ in before] == ["['x']", "['y'][0]"]
    tree["x"][0] = 2
    assert before != data.all_bits(tree)
    assert before != data.all_bits({"x": torch.ones(2), "y": [4]})


# ------------------------------------------------------------------------ labels by input


@pytest.mark.parametrize("same", [3, 3.0, torch.tensor(3), np.int64(3), np.array(3.0)])
def test_a_label_is_the_same_in_every_form(same):
    """A number, a tensor and an array."""
    assert data.label_bits(same) == data.label_bits(3)
    assert data.label_bits(same) != data.label_bits(4)


class Listed(Dataset):
    """A data set of a list."""

    def __init__(self, items):
        """Keep them."""
        self.items = items

    def __len__(self):
        """Return how many there are."""
        return len(self.items)

    def __getitem__(self, index):
        """Return one."""
        return self.items[index]


ITEMS = [*zip(SMALL[0], (0, 1, 2), strict=True), *zip(SMALL[0], (0, 1, 5), strict=True)]
LABELLED = [
    (SMALL[0].repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 5])),
    TensorDataset(SMALL[0].repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 5])),
    Loader((SMALL[0], torch.tensor([0, 1, 2])), (SMALL[0], torch.tensor([0, 1, 5]))),
    Loader(
        {"x": SMALL[0], "name": ["a", "b", "c"], "y": torch.tensor([0, 1, 2])},
        {"x": SMALL[0], "name": ["d", "e", "f"], "y": torch.tensor([0, 1, 5])},
    ),
    Loader(
        (SMALL[0], {"name": ["a", "b", "c"], "scale": torch.tensor(1), "y": torch.arange(3)}),
        (SMALL[0], {"name": ["a", "b", "c"], "y": torch.tensor([0, 1, 5])}),
    ),
    Listed([({"x": x, "name": "a"}, {"name": "b", "y": y}) for x, y in ITEMS]),
]


@pytest.mark.parametrize("source", LABELLED)
def test_labels_are_gathered_by_their_inputs(source):
    """How often each occurs, in a pair, a data set and batches; names do not count."""
    expected = [
        Counter({(data.label_bits(0),): 2}),
        Counter({(data.label_bits(1),): 2}),
        Counter({(data.label_bits(2),): 1, (data.label_bits(5),): 1}),
    ]

    found = data.labels_by_input(source, 0)

    assert list(found.values()) == expected
    assert [data.count(found, key) for key in found] == [2, 2, 2]


def test_a_pass_is_drawn_from_the_seed():
    """A loader that shuffles gives the same order again."""
    source = DataLoader(TensorDataset(X, Y), 4, shuffle=True)

    first = list(data.labels_by_input(source, 1))
    assert list(data.labels_by_input(source, 1)) == first
    assert list(data.labels_by_input(source, 2)) != first


def test_no_more_pairs_are_compared_than_the_limit(monkeypatch):
    """A stream has no end."""
    monkeypatch.setattr(data, "PAIRS", 4)

    assert len(data.labels_by_input(Stream(), 0)) == 4
    assert len(data.labels_by_input(DataLoader(TensorDataset(X, Y), 3), 0)) == 4
    assert len(list(data.examples((X, Y)))) == 4
    assert len(list(data.examples(Stream(20)))) == 4
    monkeypatch.setattr(data, "PAIRS", 12)
    assert len(list(data.examples(Stream(20)))) == 12


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), 3),
        Loader({"x": X, "scale": 3, "label": Y}),
    ],
)
def test_every_example_is_found(source):
    """With its target, whatever holds them."""
    found = list(data.examples(source))

    assert [int(torch.as_tensor(y).reshape(())) for y in (target_of(y) for _, y in found)] == [
        *range(20)
    ]
    assert torch.equal(torch.stack([target_of(x) for x, _ in found]), X)


def target_of(part):
    """Return the only leaf of what may be a flat tuple."""
    return part[0] if isinstance(part, tuple) else part


@pytest.mark.parametrize("batch", [X, (X, ["a"] * 20), (X, torch.tensor(1))])
def test_batches_without_targets_cannot_be_compared(batch):
    """That is said, and is no failure; words and one number for all are no targets here."""
    with pytest.raises(NotCheckedError, match=r"^needs targets that are tensors$"):
        list(data.examples(Loader(batch)))


# ------------------------------------------------------------------------ passes

A, B, C = [[("", 1)], [("", 2)], [("", 3)]]


@pytest.mark.parametrize(
    ("again", "number", "said"),
    [
        ([A, B], 3, "pass 1 over data gave 3 parts, pass 3 gave 2"),
        ([A, B, C, C], 2, "pass 1 over data gave 3 parts, pass 2 gave 4"),
        (
            [A, C, C],
            2,
            "1 of 3 parts of data were different in pass 2, "
            "from the same random numbers: first number 1",
        ),
        (
            [A, C, B],
            3,
            "2 of 3 parts of data were different in pass 3, "
            "from the same random numbers: first number 1",
        ),
    ],
)
def test_a_pass_that_differs_is_told(again, number, said):
    """Which, in what, and where first."""
    with pytest.raises(BrokenLawError) as caught:
        data.compare_passes("data", [A, B, C], again, number)

    assert str(caught.value) == said


def test_a_pass_that_is_the_same_is_not_told():
    """Nor are two without parts."""
    data.compare_passes("data", [A, B, C], [A, B, C], 2)
    data.compare_passes("data", [], [], 2)


# ------------------------------------------------------------------------ what is written to


def test_a_tensor_or_array_that_was_written_to_is_told():
    """With its shape, and what happened meanwhile."""
    tensor, array = torch.zeros(2, 3), np.zeros(4)
    stored = Snapshot([tensor, array])
    data.look_at_stored(stored, "reading the data")

    array[1] = 1
    with pytest.raises(
        BrokenLawError, match=r"^training wrote to a numpy array of shape \(4,\) that"
    ):
        data.look_at_stored(stored, "training")
    array[1], tensor[0] = 0, 1
    with pytest.raises(BrokenLawError, match=r"^reading wrote to a tensor of shape \(2, 3\) that"):
        data.look_at_stored(stored, "reading")


def test_a_tensor_that_grew_was_not_written_to():
    """A buffer may be made longer; what was in it is elsewhere."""
    tensor = torch.zeros(2)
    stored = Snapshot([tensor])

    tensor.data = torch.ones(3)
    data.look_at_stored(stored, "reading the data")


BATCHES = [(X[:2], Y[:2]), (X[2:4], Y[2:4]), (X[4:6], Y[4:6])]


def sgd(params):
    """Return an optimizer of parameters."""
    return torch.optim.SGD(params, lr=0.5)


class Recording(nn.Linear):
    """A model that tells what it was given, and in which mode."""

    def __init__(self, calls):
        """Remember whom to tell."""
        super().__init__(2, 20)
        self.tell = calls.append

    def __deepcopy__(self, memo):
        """Return one that tells the same."""
        twin = Recording([])
        twin.tell = self.tell
        return twin.train(self.training)

    def forward(self, x):
        """Return the logits."""
        self.tell((self.training, x))
        return super().forward(x)


@pytest.fixture
def calls():
    """Return a list for what is called."""
    return []


def test_a_fit_trains_on_the_very_batches(calls):
    """The first two of them, not on copies."""

    def fit(model, loader, loss_fn, optimizer):
        calls.extend([model, loss_fn, optimizer, *loader])

    loss_fn = nn.CrossEntropyLoss()
    project = Project(model=nn.Linear(2, 20), loss_fn=loss_fn, optimizer=sgd, fit=fit)
    project.train_step = lambda *_: calls.append("both")
    data.use(project, Loader(*BATCHES), BATCHES)

    model, loss, optimizer, *given = calls
    assert isinstance(model, nn.Linear)
    assert loss is loss_fn
    assert optimizer.param_groups[0]["params"][0] is model.weight
    addresses = [(x.data_ptr(), y.data_ptr()) for x, y in given]
    assert addresses == [(x.data_ptr(), y.data_ptr()) for x, y in BATCHES[:2]]


def test_a_train_step_is_taken_on_the_very_batches(calls):
    """Of the first two."""
    loss_fn = nn.CrossEntropyLoss()
    project = Project(
        model=nn.Linear(2, 20),
        loss_fn=loss_fn,
        optimizer=sgd,
        train_step=lambda *arguments: calls.append(arguments),
    )
    data.use(project, Loader(*BATCHES), BATCHES)

    for (model, loss, optimizer, x, y), batch in zip(calls, BATCHES[:2], strict=True):
        assert isinstance(model, nn.Linear)
        assert loss is loss_fn
        assert optimizer.param_groups[0]["params"][0] is model.weight
        assert (x.data_ptr(), y.data_ptr()) == (batch[0].data_ptr(), batch[1].data_ptr())


@pytest.mark.parametrize(
    "parts", [{}, {"loss_fn": len}, {"optimizer": sgd}, {"loss_fn": len, "optimizer": sgd}]
)
def test_a_model_that_cannot_be_trained_is_run(parts, calls):
    """In training mode on the first batch, as it is."""
    model = Recording(calls)
    project = Project(model=model.eval() if len(parts) < 2 else model, **parts)
    data.use(project, Loader(*BATCHES), BATCHES)

    ((training, x),) = calls
    assert training
    assert x.data_ptr() == BATCHES[0][0].data_ptr()


@pytest.mark.parametrize("source", [(X, Y), TensorDataset(X, Y)])
def test_data_that_gives_no_batches_is_not_trained_on(source, calls):
    """Nor is any without a model."""
    data.use(Project(model=Recording(calls)), source, [(X[0], Y[0])])
    data.use(Project(train_step=len, loss_fn=len, optimizer=sgd), Loader(*BATCHES), BATCHES)

    assert calls == []


# ------------------------------------------------------------------------ chance


class Draws(Dataset):
    """Three examples, whose last draws a random number that it does not use."""

    def __init__(self, draw):
        """Remember how."""
        self.draw = draw

    def __len__(self):
        """Return the number of examples."""
        return 3

    def __getitem__(self, index):
        """Return one."""
        if index == 2:
            self.draw()
        return X[index], int(Y[index])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.rand(1),
        lambda: random.random(),
        lambda: np.random.rand(),  # noqa: NPY002
        lambda: random.gauss(0, 1),
        lambda: np.random.randn(),  # noqa: NPY002
    ],
)
def test_a_validation_example_that_draws_numbers_is_told(draw):
    """Also one that does not use them, of any of the three generators."""
    assert data.draws_numbers(Draws(draw))

    with pytest.raises(CheckFailedError, match="reading validation examples draws random numbers"):
        checks.check_validation_data_is_left_to_no_chance(validation=Draws(draw))


@pytest.mark.parametrize(
    "draw", [lambda: None, lambda: torch.rand(1, generator=torch.Generator().manual_seed(0))]
)
def test_validation_without_chance_is_left_alone(draw):
    """A generator of its own is nobody else's matter."""
    assert not data.draws_numbers(Draws(draw))

    checks.check_validation_data_is_left_to_no_chance(validation=Draws(draw))
