"""The Sphinx extension: write the pages before Sphinx reads, link API pages to the laws."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pygments.lexers import PythonLexer
from pygments.token import Name, Operator, Punctuation, Text
from sphinx.application import Sphinx

from book.docstrings import docstring
from book.pages import law_links, write_pages
from book.suite import Law, chapters

GENERATED = Path(__file__).parents[1] / "generated"


def setup(app: Sphinx) -> dict[str, Any]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_lexer("python", FewColours)
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", link_back)
    app.connect("html-page-context", give_levels, priority=900)  # after the theme's
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class FewColours(PythonLexer):
    """Python without markup for names, signs and spaces: it took a third of the largest pages."""

    def get_tokens(self, *arguments: Any, **options: Any) -> Iterator[tuple[Any, str]]:
        """Yield the tokens of some code; those in the colour of the text are Text."""
        plain = (Name, Name.Namespace, Name.Variable, Name.Other, Text.Whitespace)
        for kind, text in super().get_tokens(*arguments, **options):
            is_plain = kind in Punctuation or kind is Operator or kind in plain
            yield (Text if is_plain else kind), text


def write(app: Sphinx) -> None:
    """Write all pages into an empty folder, so that no outdated page is left."""
    torch.set_num_threads(1)  # the training runs in the drawings are too small for more
    shutil.rmtree(GENERATED, ignore_errors=True)
    write_pages(GENERATED)


def link_back(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Convert a docstring from prose, and link the laws of a technique below it."""
    lines[:] = docstring(lines)
    laws: list[Law] = [
        law for chapter in chapters() for law in chapter.laws if name in law.techniques
    ]
    if laws:
        lines += ["", *law_links(laws), ""]


def give_levels(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object
) -> None:
    """Give a level to the captions that Sphinx marks as headings, for screen readers."""
    for key, value in context.items():
        if isinstance(value, str):
            context[key] = value.replace('role="heading"', 'role="heading" aria-level="2"')
