"""Lay out the pages of the site in `build/site`, as they lie in the repository, so that links between them stay as they are written.

`make site` runs this, then Sphinx. No notebook is executed: the outputs are those that are stored.
"""

import json
import os
import re
import shutil
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import api
import gallery

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "site"
NOTEBOOKS = (
    "nbs/book",
    "nbs/reference",
    "nbs/networks",
    "nbs/experiments",
    "nbs/benchmarks",
    "results/report/*",
    "results/synthetic/*",
    "results/choices/*",
    "results/explain/*",
    "results/*/study",
    "results/search/*",
    "results/why/*",
    "results/tuning/*",
    "results/second/*",
    "results/networks/*",
)
TEXTS = (
    "README.md",
    "CHOICES.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "RELIABILITY.md",
    "docs/reproduce.md",
    "results/PROTOCOL.md",
    "results/README.md",
    "data/README.md",
    "data/reference/README.md",
    "tests/fixtures/README.md",
)
OURS = ("index.md", "source.md", "experiments.md")  # written for the site, in this folder
MADE = ("gallery.md", *(f"api/{name}.md" for name in api.PACKAGES))  # when the site is made
PICTURES = ("docs/focus.gif", "docs/stf.svg")  # shown by OURS, and in place of a diagram
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)")  # of Markdown, to a file
MATHJAX = "mathjax/static/mathjax/es5/tex-svg.js"  # in the package django-static-mathjax: MathJax 3 in one file, which draws its letters and asks for no font
# forges draw it, with a large program that is not here
MERMAID = re.compile(r"^```mermaid\n.*?^```\n", flags=re.M | re.S)
DIAGRAM = (
    "![A clip goes through three blocks to class scores; the focus Q is read off their gradient, "
    "and four losses act on it](docs/stf.svg)\n"
)
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
COLAB = "https://colab.research.google.com/github/{name}/blob/main/{page}"
BINDER = "https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{page}"
FIRST = """In Colab, run this first, in a cell of its own; Binder needs nothing.

```
!git clone --depth 1 {repository} && pip install -q ./stf_repro
%cd stf_repro
```
"""
SHOWN = {"export", "eval:"}  # nbdev's marks: `#| export` is dropped, the cell stays
HIDDEN = {"hide", "default_exp"}  # with these the cell goes


def pages() -> list[str]:
    "Notebooks and texts that become pages, as paths from the root."
    found = [path for folder in NOTEBOOKS for path in sorted(ROOT.glob(f"{folder}/*.ipynb"))]
    return [path.relative_to(ROOT).as_posix() for path in found] + list(TEXTS)


def without_marks(cell: dict) -> dict | None:
    "A cell as it is to be read: without nbdev's marks; None if it is hidden. Raises `ValueError` for a mark that is not known here."
    lines = "".join(cell["source"]).splitlines(keepends=True)
    marks = {line[2:].split()[0] for line in lines if line.startswith("#| ")} if cell["cell_type"] == "code" else set()
    if unknown := marks - SHOWN - HIDDEN:
        raise ValueError(
            f"the mark `#| {unknown.pop()}` is not known to docs/pages.py; say there whether its cells are shown"
        )
    if marks & HIDDEN or "injected-parameters" in cell["metadata"].get("tags", []):
        return None
    return cell | {"source": [line for line in lines if not line.startswith("#| ")] if marks else cell["source"]}


def leads_to(target: Path, known: set[str]) -> str:
    "The page of the site that stands for a file or folder of the repository, or the file itself; as a path from the root."
    path = target.as_posix()
    if target.name == "table.md":  # the executed notebook shows the same table
        path = f"{target.parent.as_posix()}/{target.parent.name}.ipynb"
    elif path.startswith("nbs/results/"):  # stored without outputs; the executed one is a page
        path = next(
            (
                page
                for page in sorted(known, reverse=True)
                if page.startswith("results/") and Path(page).name == target.name
            ),
            path,
        )
    elif path.startswith("docs/") and target.name in OURS:
        path = target.name
    elif path in ("nbs", "nbs/README.md"):
        path = "source.md"
    elif (ROOT / path).is_dir():
        path = f"{path}/{target.name}.ipynb"
    return path if path in known or (ROOT / path).is_file() else target.as_posix()


def relinked(text: str, page: str, known: set[str], files: set[str]) -> str:
    "A text with links that lead to pages of the site. What is no page is added to `files`."

    def one(match):
        goal = leads_to(Path(os.path.normpath(Path(page).parent / match[2])), known)
        if goal not in known and (ROOT / goal).is_file():
            files.add(goal)
        return match[1] + os.path.relpath(goal, Path(page).parent)

    return LINK.sub(one, text)


def title_first(cells: list[dict]) -> list[dict]:
    "A page begins with its title: code that stands above it, such as imports, comes below."
    at = next((i for i, cell in enumerate(cells) if cell["cell_type"] == "markdown"), 0)
    return [cells[at], *cells[:at], *cells[at + 1 :]]


def describe_pictures(cells: list[dict]) -> None:
    "Alternative text of the pictures of a cell: the caption below them, or the heading that they stand under; and their width."
    heading = ""
    for cell, below in zip(cells, [*cells[1:], {"source": ""}]):
        source, caption = ("".join(c["source"]).strip() for c in (cell, below))
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ (.+)", source, flags=re.M) or [heading])[-1]
        elif any(kind.startswith("image/") for output in cell["outputs"] for kind in output.get("data", {})):
            text = (
                caption.split("\n\n")[0]
                if caption.startswith("*") and not caption.startswith("**")
                else f"Picture: {heading}"
            )
            image = {"alt": re.sub(r"[*$`]|\]\([^)]*\)|\[", "", text)}
            for output in cell["outputs"]:
                if width := output.get("metadata", {}).get("image/png", {}).get("width"):
                    image["width"] = f"{width}px"  # a PNG has twice as many dots, for sharp screens
            cell["metadata"] = cell["metadata"] | {"mystnb": {"image": image}}


def elsewhere(page: str) -> str:
    "Where a chapter can be run by who has installed nothing. What Colab needs is said once, in the first chapter."
    name = REPOSITORY.removeprefix("https://github.com/")
    links = f"[Open in Colab]({COLAB.format(name=name, page=page)}) · [Binder]({BINDER.format(name=name, page=page)})"
    return f"{links}\n\n{FIRST.format(repository=REPOSITORY)}" if "/01_" in page else f"{links}\n"


def with_module(page: str, cells: list[dict]) -> list[dict]:
    "The cells of a page with what is told under its title, and with the places of what its cells export."
    about = api.module(page)
    told = api.head(about, os.path.relpath(".", Path(page).parent)) if about else ""
    told = elsewhere(page) if page.startswith("nbs/book/") else told
    if not told:
        return cells
    first = "".join(cells[0]["source"])
    end = api.TITLE.match(first).end()
    found = [cells[0] | {"source": f"{first[:end]}\n{told}{first[end:]}"}]
    for i, cell in enumerate(cells[1:]):
        source = "".join(cell["source"])
        if about and source in about.cells and (told := api.places(source, about)):
            found.append({"cell_type": "markdown", "id": f"place-{i}", "metadata": {}, "source": told})
        found.append(cell)
    return found


def laid_out(page: str, known: set[str], files: set[str]) -> str:
    "The content of a page, for Sphinx."
    text = (ROOT / page if page not in OURS else ROOT / "docs" / page).read_text()
    if page.endswith(".md"):
        return relinked(MERMAID.sub(DIAGRAM, text), page, known, files)
    notebook = json.loads(text)
    cells = title_first([shown for cell in notebook["cells"] if (shown := without_marks(cell))])
    describe_pictures(cells)
    for cell in cells:
        if cell["cell_type"] == "markdown":
            cell["source"] = relinked("".join(cell["source"]), page, known, files)
        elif page.startswith("results/"):  # here one reads tables and pictures; the code is a click away
            cell["metadata"] = cell["metadata"] | {"tags": [*cell["metadata"].get("tags", []), "hide-input"]}
        for output in cell.get("outputs", []):
            if told := output.get("data", {}).get("text/markdown"):
                output["data"]["text/markdown"] = relinked("".join(told), page, known, files)
    return json.dumps(notebook | {"cells": with_module(page, cells)})


def mathjax() -> Path:
    "The file of MathJax, as it is installed."
    return Path(distribution("django-static-mathjax").locate_file(MATHJAX))


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    known, files = {*pages(), *OURS, *MADE}, {"LICENSE", *PICTURES}
    texts = {page: laid_out(page, known, files) for page in sorted(known - {*MADE})}
    for page, text in (texts | api.pages() | {"gallery.md": gallery.written(OUT)}).items():
        path = OUT / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in files:
        (OUT / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, OUT / name)
    (OUT / "_static").mkdir()
    for file in (mathjax(), ROOT / "docs" / "style.css", ROOT / "docs" / "icon.svg"):
        shutil.copy(file, OUT / "_static")
    print(f"{OUT}: {len(known)} pages")


if __name__ == "__main__":
    main()
