"""grad_fn leads back through the operations that made a result.

>>> x = torch.tensor([1.0, 2.0], requires_grad=True)
>>> y = x.exp().sum()
>>> y.grad_fn.name(), y.grad_fn.next_functions[0][0].name()
('SumBackward0', 'ExpBackward0')
>>> print(x.grad_fn)
None

Notes: `grad_fn` of a result shows the operations that made it.
Verdict: holds
Truth: `grad_fn` is the last operation, and `next_functions` lead to the ones before it. Every path
    ends in an AccumulateGrad node, whose `variable` is a leaf. A leaf itself has no `grad_fn`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dlconcepts.autograd import history
from dlconcepts.strategies import tensors
from dlconcepts.testing.laws import law
from tests.autograd.common import UNARY, apply_chain, chains, float64


def rebuilds_under_no_grad(names: Sequence[str], x: Tensor) -> Tensor:
    """Compute the same values under no_grad, which records nothing."""
    with torch.no_grad():
        return apply_chain(names, x)


def cuts_the_chain(names: Sequence[str], x: Tensor) -> Tensor:
    """Take .data after the first of several operations, which makes a new leaf."""
    if len(names) == 1:
        return apply_chain(names, x)
    return apply_chain(names[1:], UNARY[names[0]](x).data.requires_grad_())


def name_of(node: torch.autograd.graph.Node) -> str:
    # From "SinBackward0" or "torch::autograd::AccumulateGrad".
    return node.name().split("::")[-1].split("Backward")[0]


@law(
    right=apply_chain,
    wrong={
        rebuilds_under_no_grad: "a tracked result has a history",
        cuts_the_chain: "the last operation first",
    },
)
@given(names=chains, x=tensors((2,), float64, max_magnitude=3.0, requires_grad=True))
def test_grad_fn_leads_back_through_the_operations(
    apply_chain: Callable[[Sequence[str], Tensor], Tensor], names: list[str], x: Tensor
) -> None:
    """next_functions lead from a result back through its operations, in reverse, to the leaf."""
    result = apply_chain(names, x)

    assert x.grad_fn is None, "a leaf has no history"
    assert result.grad_fn is not None, "a tracked result has a history"
    met, node = [], result.grad_fn
    while node.next_functions:
        met.append(name_of(node))
        assert len(node.next_functions) == 1, "an operation on one tensor leads back to one"
        ((node, _),) = node.next_functions
    assert met == names[::-1], "the history names the operations, the last operation first"
    assert name_of(node) == "AccumulateGrad", "the history ends where gradients accumulate"
    assert node.variable is x, "the history ends at the leaf itself"
    assert [name_of(node) for node in history(result)] == [*met, "AccumulateGrad"], (
        "the library's history is the same"
    )


def follows_the_first_input(tensor: Tensor) -> list[Any]:
    """Follow only the first input of each operation."""
    nodes, node = [], tensor.grad_fn
    while node is not None:
        nodes.append(node)
        node = node.next_functions[0][0] if node.next_functions else None
    return nodes


def meets_shared_nodes_twice(tensor: Tensor) -> list[Any]:
    """Walk the graph as a tree, and so meet a result once for each use."""

    def walk(node: Any) -> Iterator[Any]:
        if node is not None:
            yield node
            for source, _ in node.next_functions:
                yield from walk(source)

    return list(walk(tensor.grad_fn))


def starts_at_the_leaf(tensor: Tensor) -> list[Any]:
    """Give a leaf the node that accumulates its gradient, though no operation made it."""
    if tensor.is_leaf and tensor.requires_grad:
        return history(tensor.view_as(tensor))[1:]
    return history(tensor)


def in_order_of_discovery(tensor: Tensor) -> list[Any]:
    """List nodes depth first, so a shared input can come before an operation that used it."""
    return list(dict.fromkeys(meets_shared_nodes_twice(tensor)))


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Draw leaves, some tracked, and pairs of positions to add, among leaves and results."""
    tracked = draw(st.lists(st.booleans(), min_size=1, max_size=3))
    inputs = [torch.ones(k + 1, 1, requires_grad=flag) for k, flag in enumerate(tracked)]
    steps = [
        (draw(st.integers(0, last)), draw(st.integers(0, last)))
        for last in range(len(inputs) - 1, len(inputs) + draw(st.integers(0, 4)))
    ]
    return inputs, steps


@law(
    right=history,
    wrong={
        follows_the_first_input: "every operation",
        meets_shared_nodes_twice: "once",
        in_order_of_discovery: "before those it used",
        starts_at_the_leaf: "a leaf has no history",
    },
)
@given(program=programs())
def test_the_history_is_the_graph_of_all_that_was_used(
    history: Callable[[Tensor], list[Any]], program: tuple[list[Tensor], list[tuple[int, int]]]
) -> None:
    """The history has every tracked operation and leaf once, each before the ones it used."""
    inputs, steps = program
    values, sources = list(inputs), dict[int, tuple[int, int]]()
    for left, right in steps:
        sources[len(values)] = (left, right)
        values.append(values[left].sum() + values[right].sum())  # sums: the shapes differ
    # The oracle: go back through the steps and mark the values that the last one depends on.
    used = {len(values) - 1}
    for position in range(len(values) - 1, -1, -1):
        if position in used:
            used.update(sources.get(position, ()))
    expected = {k for k in used if values[k].requires_grad}

    nodes = history(values[-1])

    assert all(history(leaf) == [] for leaf in inputs), "a leaf has no history"
    assert len(nodes) == len(set(nodes)), "the history has each node once"
    adds = [node for node in nodes if name_of(node) == "Add"]
    assert set(adds) == {values[k].grad_fn for k in expected if k in sources}, (
        "the history has every operation that was tracked"
    )
    variables = [node.variable for node in nodes if hasattr(node, "variable")]
    assert {id(v) for v in variables} == {id(values[k]) for k in expected if k not in sources}, (
        "the history ends in exactly the leaves that are tracked"
    )
    place = {node: number for number, node in enumerate(nodes)}
    for node in nodes:
        for source, _ in node.next_functions:
            if source is not None:
                assert source in place, "the history has every operation that was used"
                assert place[node] < place[source], "an operation comes before those it used"
