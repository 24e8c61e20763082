"""Configure Sphinx for the book: `tox -e book`, or `sphinx-build -W -n docs build/book`."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import dlconcepts

project = "dlconcepts"
author = "the authors of dlconcepts"
copyright = "the authors of dlconcepts, under the MIT licence"
release = version = dlconcepts.__version__
html_title = "dlconcepts"
extensions = [
    "book",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["results/*.xml", "book"]
default_role = "code"
nitpicky = True
# Check only links to our own objects: links to other packages need the network, and a signature may
# name a type that has no page.
nitpick_ignore_regex = [("py:(?!obj).*", ".*"), ("py:obj", r"(?!dlconcepts\.).*")]
autodoc_typehints_format = "short"
# Link source only from the module that defines an object.
viewcode_follow_imported_members = False
smartquotes = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
html_show_sphinx = False
html_copy_source = False
html_show_search_summary = False  # it fetches pages, which browsers block for file: URLs
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"
rst_prolog = (
    "\n".join(
        f".. role:: {word}\n   :class: badge {word}"
        for word in (
            *("holds", "holds-if", "corrected", "opinion"),
            *("ok", "rejected", "failed", "skipped", "pending", "not-run-yet"),
            *("mistake", "raises", "warns", "another-result", "runs"),
        )
    )
    + "\n.. role:: small\n   :class: small\n"
)
