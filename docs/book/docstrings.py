"""Turn the prose of docstrings and heads into reStructuredText, with markup characters escaped."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import indent

# Calls without spaces, or of a name with a dot or underscore; such names; keyword arguments.
CODE = re.compile(
    r"""(?<![\w.`])(?:
    (?: \w+\((?:[^()\s]|\([^()\s]*\))*\) | (?=\w*[._]\w*)[\w.]+\((?:[^()]|\([^()]*\))*\) )
        (?: \.\w+(?:\([^()\s]*\))? )*
    | (?: \w+(?:\.\w+)*_\b | \w+_\w+(?:\.\w+)* | nn\.\w+ | \w+(?==) )(?:=\w+)?
    )(?![\w`])""",
    re.VERBOSE,
)


def prose(text: str) -> str:
    r"""Return a text as reStructuredText: `code` becomes code, the rest is escaped.

    >>> prose("Call `step_`s on *all* of x_")
    'Call ``step_``\\ s on \\*all\\* of x\\_'
    """
    pieces = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    plain = [re.sub(r"([\\*`|_])", r"\\\1", piece) for piece in pieces]
    plain[1::2] = [f"``{code}``" for code in pieces[1::2]]
    joined = ""
    for before, piece in zip(["", *plain], plain, strict=False):
        # Code next to a word needs an escaped space, which is not shown.
        opens = piece.startswith("``") and re.search(r"[^\s'\"(\[{<\-/:]$", before)
        closes = before.endswith("``") and re.match(r"[^\s'\")\]}>\-/:.,;!?\\]", piece)
        joined += (r"\ " if opens or closes else "") + piece
    return joined


def claimed(text: str) -> str:
    """Return a text of a head as reStructuredText, and mark what looks like code.

    >>> claimed("Call zero_grad() or resize_(2, 3), or super().forward(x) (once).")
    'Call ``zero_grad()`` or ``resize_(2, 3)``, or ``super().forward(x)`` (once).'
    """
    return prose(CODE.sub(r"`\g<0>`", text))


def paragraphs(text: str) -> str:
    return "\n\n".join(prose(part) for part in text.split("\n\n"))


def docstring(lines: Sequence[str]) -> Iterator[str]:
    r"""Yield the lines of a docstring as reStructuredText.

    Paragraphs become prose and lines that start with a dash a list. Indented lines and tables are
    shown verbatim, and doctests are kept.

    >>> list(docstring(["Return |x|.", ">>> f(*x)", "1"]))
    ['Return \\|x\\|.', '', '>>> f(*x)', '1']
    """
    # Join an item with its indented continuation lines.
    text = re.sub(r"(?m)^- .*(?:\n +\S.*)+", lambda m: " ".join(m[0].split()), "\n".join(lines))
    doctest = False
    text = re.sub(r"(?m)^==+ (?:.|\n(?!\n))*", lambda m: indent(m[0], "    "), text)
    for kind, group in groupby(text.split("\n"), kind_of):
        block = list(group)
        if kind == "empty":
            doctest = False
        elif kind == "doctest" or doctest:
            doctest = True
            yield from block
            continue
        elif kind == "code":
            yield from ("::", "", *block)
        elif kind == "item":
            yield from (f"- {prose(line[2:])}" for line in block)
        else:
            yield prose(" ".join(block))
        yield ""


def kind_of(line: str) -> str:
    starts = {"": "empty", ">>>": "doctest", "...": "doctest", "-": "item"}
    if line.startswith("  "):
        return "code"
    return starts.get(line.partition(" ")[0], "prose")
