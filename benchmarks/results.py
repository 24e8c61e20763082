"""What the measurements of power share: the case of an item, and the file with the results."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from dlconcepts.cli.verify import processor


def case_of(item: pytest.Item) -> Any:
    """Return the case of a law that an item runs, if any."""
    mark = item.get_closest_marker("case")
    return mark.args[0] if mark else None


def write(
    path: Path, rows: Sequence[dict[str, Any]], packages: Iterable[str], **head: object
) -> None:
    """Write the rows, under the command that made them, the date and what it ran with."""
    content = {
        "command": " ".join(["python", *sys.argv]),
        "date": f"{date.today()}",
        "processor": processor(),
        "versions": {name: version(name) for name in packages},
        **head,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
