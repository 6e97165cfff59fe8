"""The tables and plots of a JSON file, written into a page between its two marks:

    python -m benchmarks.serving.page [docs/benchmarks.json] [docs/benchmarks.md]

Everything else in the page stays as it is; without marks the tables come at its end. Plots go to pictures/ beside the page.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.serving import tables

BEGIN, END = "<!-- serving: written by benchmarks.serving.page -->", "<!-- /serving -->"


def write(results: dict[str, Any], page: Path) -> None:
    """The plots are left as they are where matplotlib is not installed."""
    drawn = draw(results, page.parent / "pictures")
    section = f"{BEGIN}\n\n{tables.section(results, drawn)}\n{END}"
    before = page.read_text("utf-8") if page.exists() else "# Benchmarks\n"
    marked = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    found = marked.search(before)
    after = before[: found.start()] + section + before[found.end() :] if found else f"{before.rstrip()}\n\n{section}\n"
    page.write_text(after, "utf-8")


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Names of the pictures that there are."""
    try:
        from benchmarks.serving import plots
    except ImportError:
        print("no plots: pip install 'topwork-server[bench]'", file=sys.stderr)
        return [path.name for path in sorted(folder.glob("serving-*.svg"))]
    folder.mkdir(parents=True, exist_ok=True)
    return plots.draw(results, folder)


def main(source: str = "docs/benchmarks.json", page: str = "docs/benchmarks.md") -> None:
    write(json.loads(Path(source).read_text("utf-8")), Path(page))


if __name__ == "__main__":
    main(*sys.argv[1:])
