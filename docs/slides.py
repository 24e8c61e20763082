"""Write the corrected claims as slides for a lecture, one HTML file and one PDF.

    python docs/slides.py

The files are build/slides/myths.html and build/slides/myths.pdf. The PDF needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import jinja2
from book.pages import TEMPLATES, claims
from book.pictures import pictures_of

OUT = ROOT / "build" / "slides"


def html() -> str:
    """Return the slides as one HTML page that loads nothing."""
    folder = jinja2.FileSystemLoader(TEMPLATES)
    templates = jinja2.Environment(loader=folder, undefined=jinja2.StrictUndefined, autoescape=True)
    myths = [claim for claim in claims() if claim.verdict == "corrected"]
    return templates.get_template("slides.html").render(myths=myths, pictures_of=pictures_of())


def main() -> None:
    """Write the slides; raise SystemExit if there is no browser to make the PDF."""
    OUT.mkdir(parents=True, exist_ok=True)
    page = OUT / "myths.html"
    page.write_text(html(), encoding="utf-8")
    print(f"wrote {page.relative_to(ROOT)}")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("the PDF needs a browser: apt-get install chromium")
    with tempfile.TemporaryDirectory() as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        options += ["--disable-background-networking", "--no-pdf-header-footer"]
        command = [chromium, *options, f"--print-to-pdf={OUT / 'myths.pdf'}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True)
    print(f"wrote {(OUT / 'myths.pdf').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
