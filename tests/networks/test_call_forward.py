"""Call the model: model(x) runs its hooks, model.forward(x) skips them.

>>> model = nn.ReLU()
>>> _ = model.register_forward_hook(lambda module, args, output: print("hook ran"))
>>> model(torch.tensor([-1.0, 2.0]))
hook ran
tensor([0., 2.])
>>> model.forward(torch.tensor([-1.0, 2.0]))
tensor([0., 2.])

Notes: Call forward to get the class scores.
Verdict: corrected
Truth: Call the model: model(x) runs the hooks, model.forward(x) skips them. The values are the
    same, unless a hook changes them.
"""

from collections.abc import Callable

from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from dlconcepts.strategies import networks, tensors
from dlconcepts.support.bitwise import same
from dlconcepts.testing.laws import law


def calls_the_model(model: nn.Module, x: Tensor) -> Tensor:
    """Call the model, which calls forward between its hooks."""
    return model(x)


def calls_forward(model: nn.Module, x: Tensor) -> Tensor:
    """Call forward, as the notes say."""
    return model.forward(x)


def calls_each_layer(model: nn.Module, x: Tensor) -> Tensor:
    """Call each layer of the model in turn."""
    for layer in model.children():
        x = layer(x)
    return x


def calls_twice(model: nn.Module, x: Tensor) -> Tensor:
    """Call the model twice and return the second output."""
    model(x)
    return model(x)


@law(
    right=calls_the_model,
    wrong={
        calls_forward: "runs each hook exactly once",
        calls_each_layer: "runs each hook exactly once",
        calls_twice: "runs each hook exactly once",
    },
)
@given(
    model=networks([2, 3, 2]),
    x=tensors((2, 2)),
    hooks=st.lists(st.sampled_from(["before", "after"]), min_size=1, max_size=3),
)
def test_calling_the_model_runs_its_hooks(
    call: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, x: Tensor, hooks: list[str]
) -> None:
    """model(x) runs each hook once and model.forward(x) runs none; the values are the same."""
    ran: list[int] = []
    for number, kind in enumerate(hooks):
        register = {
            "before": model.register_forward_pre_hook,
            "after": model.register_forward_hook,
        }[kind]
        register(lambda *_, number=number: ran.append(number))

    without = model.forward(x)
    skipped = list(ran)
    values = call(model, x)

    assert skipped == [], "forward runs no hook of its model"
    assert sorted(ran) == list(range(len(hooks))), "calling runs each hook exactly once"
    assert same(values, without), "the values are the same"


def keeps_the_output(model: nn.Module, x: Tensor) -> Tensor:
    """Run the hooks but return the output of forward."""
    output = model.forward(x)
    model(x)
    return output


@law(
    right=calls_the_model,
    wrong={
        calls_forward: "the output is the one that the hook returned",
        keeps_the_output: "the output is the one that the hook returned",
    },
)
@given(model=networks([2, 2]), x=tensors((1, 2), max_magnitude=10), factor=st.integers(2, 3))
def test_a_hook_may_change_the_output(
    call: Callable[[nn.Module, Tensor], Tensor], model: nn.Module, x: Tensor, factor: int
) -> None:
    """The value that a forward hook returns replaces the output of forward."""
    expected = model(x) * factor
    assume(bool(expected.any()))  # a factor does not change zeros
    model.register_forward_hook(lambda module, arguments, output: output * factor)

    assert same(call(model, x), expected), "the output is the one that the hook returned"
