"The site: every page has its place, marks of nbdev are gone, links lead to pages. Sphinx is not needed here."

import importlib.util
import json
import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def pages(root):
    spec = importlib.util.spec_from_file_location("site_pages", root / "docs" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def contents(root) -> list[str]:
    "The entries of all tables of contents, in order."
    text = "\n".join((root / "docs" / name).read_text() for name in ("index.md", "source.md"))
    return [
        line
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.M | re.S)
        for line in block.splitlines()
        if line and line[0] != ":"
    ]


def test_every_page_is_in_the_table_of_contents(root, pages):
    entries = contents(root)
    named = [page.rsplit(".", 1)[0] for page in pages.pages()]
    lost = [name for name in named if not any(fnmatch(name, entry) for entry in entries)]
    assert lost == [] and len(set(named)) == len(named)
    assert [entry for entry in entries if not any(fnmatch(name, entry) for name in [*named, "source"])] == []


def test_the_book_the_results_and_the_source_are_pages(root, pages):
    known = set(pages.pages())
    wanted = [
        path
        for folder in ("book", "reference", "networks", "experiments")
        for path in (root / "nbs" / folder).glob("*.ipynb")
    ]
    wanted += [
        path
        for profile in ("synthetic", "choices", "sbu", "search")
        for path in (root / "results" / profile).glob("*/*.ipynb")
    ]
    assert len(wanted) > 90 and {path.relative_to(root).as_posix() for path in wanted} <= known
    entries = contents(root)
    assert (
        entries.index("nbs/book/*")
        < entries.index("results/README")
        < entries.index("results/*/study/study")
        < entries.index("source")
        < entries.index("CHOICES")
    )


def prose(page: str, text: str) -> str:
    "The Markdown of a page, that among the outputs included."
    if page.endswith(".md"):
        return text
    cells = json.loads(text)["cells"]
    told = [
        output["data"].get("text/markdown", "")
        for cell in cells
        for output in cell.get("outputs", [])
        if "data" in output
    ]
    return "\n".join(
        "".join(part) for part in [*(cell["source"] for cell in cells if cell["cell_type"] == "markdown"), *told]
    )


def test_links_lead_to_pages_and_files_that_are_there(root, pages):
    "On the pages as Sphinx gets them. A link to a table is one to the page that shows it."
    known, files = {*pages.pages(), *pages.OURS}, set()
    laid = {page: pages.laid_out(page, known, files) for page in sorted(known)}
    assert [
        name for name in files if name.endswith((".md", ".ipynb"))
    ] == []  # Sphinx would take them for pages that nobody listed
    for page, text in laid.items():
        for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", prose(page, text)):
            goal = Path(os.path.normpath(Path(page).parent / target)).as_posix()
            assert goal in known | files | {"focus.gif"}, f"{page} leads to {target}"


@pytest.mark.parametrize("page,link,goal", [
    ("nbs/20_a.ipynb", "../results/synthetic/t/table.md", "../results/synthetic/t/t.ipynb"),
    ("results/synthetic/t/t.ipynb", "../../../nbs/20_a.ipynb#A-part", "../../../nbs/20_a.ipynb#A-part"),
    ("nbs/20_a.ipynb", "results/t.ipynb", "../results/synthetic/t/t.ipynb"),
    ("nbs/20_a.ipynb", ".", "../source.md"),
    ("README.md", "docs/source.md", "source.md"),
    ("README.md", "LICENSE", "LICENSE"),
    ("README.md", "https://arxiv.org/abs/2202.02314", "https://arxiv.org/abs/2202.02314"),
])  # fmt: skip
def test_a_link_of_the_repository_becomes_one_of_the_site(pages, page, link, goal):
    known = {"nbs/20_a.ipynb", "results/synthetic/t/t.ipynb", "source.md", "README.md"}
    assert pages.relinked(f"see [this]({link})!", page, known, set()) == f"see [this]({goal})!"


def test_a_diagram_that_nothing_here_can_draw_is_left_out(root, pages):
    assert "```mermaid" in (root / "README.md").read_text()
    laid = pages.laid_out("README.md", {"README.md"}, set())
    assert (
        "mermaid" not in laid
        and "## Reproduce" in laid
        and laid.count("```bash") == (root / "README.md").read_text().count("```bash")
    )


def code(source: str, *tags, outputs=()) -> dict:
    return {
        "cell_type": "code",
        "metadata": {"tags": [*tags]},
        "source": source.splitlines(keepends=True),
        "outputs": [*outputs],
    }


def test_marks_go_and_hidden_cells_with_them(pages):
    assert "".join(pages.without_marks(code("#| export\n# a remark\nx = 1"))["source"]) == "# a remark\nx = 1"
    assert pages.without_marks(code("x = 1")) == code("x = 1")
    for cell in (
        code("#| hide\nx = 1"),
        code("#| default_exp model.stf"),
        code("#| export\n#| hide\nx = 1"),
        code("x = 1", "injected-parameters"),
    ):
        assert pages.without_marks(cell) is None
    with pytest.raises(ValueError, match="unheard"):
        pages.without_marks(code("#| unheard\nx = 1"))


def test_no_mark_is_left_on_a_page(pages):
    known = {*pages.pages(), *pages.OURS}
    for page in known:
        if page.endswith(".ipynb"):
            cells = json.loads(pages.laid_out(page, known, set()))["cells"]
            assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# "), page
            assert not any(
                line.startswith("#|") for cell in cells if cell["cell_type"] == "code" for line in cell["source"]
            ), page


def test_pictures_have_a_text_for_those_who_do_not_see_them(pages):
    picture = {"output_type": "display_data", "data": {"image/png": ""}}
    text = lambda source: {"cell_type": "markdown", "metadata": {}, "source": [source]}
    cells = [
        text("# A title\n\n## A *part*"),
        code("draw()", outputs=[picture]),
        text("*A kick, [from](x.ipynb) the front*\n\nMore."),
        code("draw()", outputs=[picture]),
    ]
    pages.name_pictures(cells)
    assert [cell["metadata"]["mystnb"]["image"]["alt"] for cell in cells[1::2]] == [
        "A kick, from the front",
        "Picture: A part",
    ]


def test_no_page_asks_for_anything_from_elsewhere(root):
    "MathJax is a file of a package; nothing else is fetched."
    settings = "\n".join((root / "docs" / name).read_text() for name in ("conf.py", "pages.py", "style.css"))
    assert "https://" not in settings and "//cdn" not in settings
    assert 'mathjax_path = "tex-svg.js"' in settings
