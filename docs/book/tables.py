"""Split recorded JSON of any form into facts, titles, texts and tables."""

from collections.abc import Iterator, Mapping
from typing import Any


def tables(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a recorded JSON value in page order.

    >>> list(tables({"rounds": 3, "rows": [{"peer": "a", "ms": 1.5}]}))
    [('facts', {'rounds': 3}), ('title', 'rows'), ('table', [{'peer': 'a', 'ms': 1.5}])]
    """
    if isinstance(value, str) and "\n" in value:
        yield "text", value
    elif isinstance(value, Mapping):
        facts = {k: v for k, v in value.items() if not isinstance(v, dict | list)}
        longer = {k: v for k, v in facts.items() if isinstance(v, str) and "\n" in v}
        if short := {k: v for k, v in facts.items() if k not in longer}:
            yield "facts", short
        for key, part in value.items():
            if key in longer or key not in facts:
                yield "title", key
                yield from tables(part)
    elif isinstance(value, list) and value and all(isinstance(x, Mapping) for x in value):
        yield "table", [part for row in value for part in spread(row)]
    elif value:
        yield "facts", {"": value}


def spread(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row for each name in a nested table.

    >>> spread({"law": "a", "on": {"cpu": {"ms": 1}, "cuda": {"ms": 2}}})
    [{'law': 'a', 'on': 'cpu', 'ms': 1}, {'law': 'a', 'on': 'cuda', 'ms': 2}]
    """
    for key, value in row.items():
        if isinstance(value, Mapping) and all(isinstance(x, Mapping) for x in value.values()):
            rest = {k: v for k, v in row.items() if k != key}
            return [{**rest, key: name, **inner} for name, inner in value.items()]
    return [dict(row)]


def cell(value: Any) -> str:
    """Return a recorded value as text, numbers with three digits.

    >>> cell(1234.5), cell(0.123456), cell([1, 2]), cell(None), cell({"a": 1.0})
    ('1,234', '0.123', '1, 2', '', 'a: 1')
    """
    if isinstance(value, float):
        return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {cell(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return "" if value is None else str(value)
