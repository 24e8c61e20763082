"""What changed from one recorded version of torch to the next, for the page "What changed"."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from itertools import groupby, pairwise
from operator import attrgetter

from book import records
from dlconcepts.testing.compare import Comparison, Difference, Run, compare, read_run
from dlconcepts.testing.results import count

# Pull requests of PyTorch that made a change or took it back, by a piece of what differs.
KNOWN = {
    "Converting a tensor with requires_grad=True": (
        "#160389, Fix LBFGS warning convert a tensor with requires_grad=True to a scalar"
    ),
    "test_underscore_mutates.py": "#164230, Fix mvlgamma_ FPE crash on x86 with integer input",
    "affine=True, bias=True": "#176573, Adding bias argument to NN normalization methods",
    "torch.jit.script_method": (
        "#189914, Keep TorchScript out of import paths and make its deprecation warnings visible"
    ),
}


@dataclass(frozen=True)
class Step:
    """Two versions next to each other, and what differs."""

    found: Comparison

    @property
    def title(self) -> str:
        return f"From torch {version(self.found.a)} to {version(self.found.b)}"

    @property
    def known(self) -> list[str]:
        """Pull requests of PyTorch about some of it."""
        texts = [(each.before, each.after) for each in self.found.differences]
        return [
            why
            for piece, why in KNOWN.items()
            if any((piece in before) != (piece in after) for before, after in texts)
        ]

    def differences(self, *kinds: str) -> list[tuple[str, list[list[Difference]]]]:
        """Return the differences of these kinds, by claim and test."""
        found = [each for each in self.found.differences if each.what in kinds]
        return [
            (claim, [list(same) for _, same in groupby(group, lambda each: each.test)])
            for claim, group in groupby(found, lambda each: each.claim)
        ]


def version(run: Run) -> str:
    return run.facts["torch"].partition("+")[0]


def totals(run: Run) -> str:
    """Count the laws and the mistakes of a run by outcome.

    >>> totals(Run(records.RESULTS, {}, {}, []))
    'laws: none; mistakes: none'
    """
    found = {
        kind: count(item.outcome for item in run.items.values() if item.kind == kind)
        for kind in ("right", "wrong")
    }
    wrong = found["wrong"].replace("ok", "rejected")
    return f"laws: {found['right'] or 'none'}; mistakes: {wrong or 'none'}"


@cache
def runs() -> Sequence[Run]:
    """Return the recorded runs on the CPU, oldest torch first."""
    found = [read_run(file) for file in records.RESULTS.glob("torch-*-cpu.xml")]
    return sorted(found, key=lambda run: records.version_key(version(run)))


def steps() -> list[Step]:
    """Return what differs between each version and the next, newest first."""
    return [Step(compare(a, b)) for a, b in pairwise(runs())][::-1]


def lines(differences: Sequence[Difference]) -> list[str]:
    """Return how a test differs, as lines of a diff."""
    texts = [
        [line for each in differences for line in text(each).splitlines()]
        for text in (attrgetter("before"), attrgetter("after"))
    ]
    return list(unified_diff(*texts, n=2, lineterm=""))[3:]
