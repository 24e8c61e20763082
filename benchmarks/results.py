"""Write the results of a measurement, with its command and versions."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dlconcepts.testing.run import processor


def write(
    path: Path, rows: Sequence[dict[str, Any]], packages: Iterable[str], **head: object
) -> None:
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
