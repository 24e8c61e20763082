"""Prose as reStructuredText: docstrings and heads mean what they say, not markup."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import indent

# Calls without spaces, or of a name with a dot or an underscore; such names; and assignments.
CODE = re.compile(
    r"""(?<![\w.`])(?:
    (?: \w+\((?:[^()\s]|\([^()\s]*\))*\) | (?=\w*[._]\w*)[\w.]+\((?:[^()]|\([^()]*\))*\) )
        (?: \.\w+(?:\([^()\s]*\))? )*
    | (?: \w+(?:\.\w+)*_\b | \w+_\w+(?:\.\w+)* | nn\.\w+ | \w+(?==) )(?:=\w+)?
    )(?![\w`])""",
    re.VERBOSE,
)


def prose(text: str) -> str:
    r"""Return a text as reStructuredText: `code` stays code, all else means only itself.

    >>> prose("Call `step_`s on *all* of x_")
    'Call ``step_``\\ s on \\*all\\* of x\\_'
    """
    pieces = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    plain = [re.sub(r"([\\*`|_])", r"\\\1", piece) for piece in pieces]
    plain[1::2] = [f"``{code}``" for code in pieces[1::2]]
    joined = ""
    for before, piece in zip(["", *plain], plain, strict=False):
        # Code that touches a word needs a space that is not shown.
        opens = piece.startswith("``") and re.search(r"[^\s'\"(\[{<\-/:]$", before)
        closes = before.endswith("``") and re.match(r"[^\s'\")\]}>\-/:.,;!?\\]", piece)
        joined += (r"\ " if opens or closes else "") + piece
    return joined


def claimed(text: str) -> str:
    """Return a text of a head as reStructuredText, with what looks like code as code.

    >>> claimed("Call zero_grad() or resize_(2, 3), or super().forward(x) (once).")
    'Call ``zero_grad()`` or ``resize_(2, 3)``, or ``super().forward(x)`` (once).'
    """
    return prose(CODE.sub(r"`\g<0>`", text))


def paragraphs(text: str) -> str:
    """Return a text of several paragraphs as reStructuredText."""
    return "\n\n".join(prose(part) for part in text.split("\n\n"))


def docstring(lines: Sequence[str]) -> Iterator[str]:
    r"""Yield the lines of a docstring as reStructuredText.

    Paragraphs are prose, lines that begin with a dash are a list, indented ones and tables are
    shown as they stand, and doctests stay what they are.

    >>> list(docstring(["Return |x|.", ">>> f(*x)", "1"]))
    ['Return \\|x\\|.', '', '>>> f(*x)', '1']
    """
    # An item that goes on, indented, in the next line is one item.
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
    """Return what a line of a docstring is."""
    starts = {"": "empty", ">>>": "doctest", "...": "doctest", "-": "item"}
    if line.startswith("  "):
        return "code"
    return starts.get(line.partition(" ")[0], "prose")
