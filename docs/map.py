"""Write nbs/README.md: every notebook with its title and its first line. `python docs/map.py`; a test says when it is due."""

import json
import re
from pathlib import Path

from stf_repro.report.render import relinked

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "nbs" / "README.md"
FOLDERS = {
    "book": "Chapters, to be read in order. They export nothing.",
    "reference": "The source of the package, one page a module, from what is at the bottom to the command line.",
    "networks": "A page for each network: written from its paper, or ours.",
    "experiments": "The measurements that defaults rest on. They export nothing.",
    "results": "One page a table or figure; `stf render` executes them into `results/`.",
    "benchmarks": "Time and memory, measured by hand on an idle machine.",
}


def entry(path: Path) -> str:
    "A line of the map. Raises `ValueError` for a notebook without a title."
    cells = json.loads(path.read_text())["cells"]
    text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    title, quote = re.search(r"^# (.+)$", text, re.M), re.search(r"^> (.+)$", text, re.M)
    if not title:
        raise ValueError(f"{path} has no title: a line that begins with `# `")
    exported = re.search(r"^#\|\s*default_exp (\S+)", "".join(cells[0]["source"]))
    module = f" (`{exported[1]}`)" if exported else ""
    line = relinked(quote[1], path.parent, MAP.parent) if quote else ""
    return f"- [{title[1]}]({path.parent.name}/{path.name}){module}{': ' + line if line else ''}"


def written() -> str:
    "The whole map."
    parts = ["# The notebooks\n\nWritten by `docs/map.py` from titles and first lines.\n"]
    for folder, what in FOLDERS.items():
        lines = [entry(path) for path in sorted((ROOT / "nbs" / folder).glob("*.ipynb"))]
        parts.append(f"## {folder}\n\n{what}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    MAP.write_text(written())
