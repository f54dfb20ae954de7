"The site: every page has its place, marks of nbdev are gone, links lead to pages. Sphinx is not needed here."

import importlib.util
import json
import os
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest


def load(root, name):
    "A script of the folder docs."
    sys.path.insert(0, str(root / "docs"))
    spec = importlib.util.spec_from_file_location(f"site_{name}", root / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(root / "docs"))
    return module


@pytest.fixture(scope="module")
def pages(root):
    return load(root, "pages")


@pytest.fixture(scope="module")
def laid(pages) -> dict[str, str]:
    "All pages but the gallery, as Sphinx gets them."
    known = {*pages.pages(), *pages.OURS, *pages.MADE}
    return {page: pages.laid_out(page, known, set()) for page in known - {*pages.MADE}} | pages.api.pages()


def contents(laid) -> list[tuple[str, str]]:
    "The entries of all tables of contents, in order: a title, which may be empty, and a page or a pattern."
    texts = [laid["index.md"], *(text for page, text in laid.items() if page.endswith(".md") and page != "index.md")]
    lines = [
        line
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", "\n".join(texts), flags=re.M | re.S)
        for line in block.splitlines()
        if line and line[0] != ":"
    ]
    split = [re.fullmatch(r"(.+) <(.+)>", line) for line in lines]
    named = [(found[1], found[2]) if found else ("", line) for found, line in zip(split, lines)]
    return [(title, re.sub(r"^/|\.ipynb$", "", page)) for title, page in named]


def test_every_page_is_in_the_table_of_contents_once(laid):
    entries = [page for _, page in contents(laid)]
    named = {page.rsplit(".", 1)[0] for page in laid} - {"index"} | {"gallery"}
    assert [name for name in named if sum(fnmatch(name, entry) for entry in entries) != 1] == []
    assert [entry for entry in entries if not any(fnmatch(name, entry) for name in named)] == []


def test_no_two_entries_of_the_sidebar_have_the_same_title(laid):
    given = {page: title for title, page in contents(laid) if title}
    titles: dict[str, list[str]] = {}
    for page, text in laid.items():
        first = re.search(r"^# (.+)$", prose(page, text), flags=re.M)[1]
        titles.setdefault(given.get(page.rsplit(".", 1)[0], first).lower(), []).append(page)
    assert len(titles) > 150 and {title: found for title, found in titles.items() if len(found) > 1} == {}


def test_the_book_the_results_and_the_source_are_pages(root, pages, laid):
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
    order = [page for _, page in contents(laid)]
    wanted = ["nbs/book/*", "README", "results/README", "results/sbu/study/study", "source", "CHOICES"]
    assert sorted(wanted, key=order.index) == wanted


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
    known, files = {*pages.pages(), *pages.OURS, *pages.MADE}, set()
    laid = {page: pages.laid_out(page, known, files) for page in sorted(known - {*pages.MADE})} | pages.api.pages()
    assert [
        name for name in files if name.endswith((".md", ".ipynb"))
    ] == []  # Sphinx would take them for pages that nobody listed
    for page, text in laid.items():
        for target in re.findall(r"(?<!\\)\]\((?!https?:|mailto:|#)([^)\s#]+)", prose(page, text)):
            goal = Path(os.path.normpath(Path(page).parent / target)).as_posix()
            assert goal in known | files, f"{page} leads to {target}"


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


def test_the_diagram_of_the_readme_is_drawn_with_its_words(root, pages):
    text = (root / "README.md").read_text()
    laid = pages.laid_out("README.md", {"README.md"}, set())
    assert "mermaid" not in laid and "](docs/stf.svg)" in laid and laid.count("```bash") == text.count("```bash")
    drawn = re.sub(r"<[^>]+>", " ", (root / "docs" / "stf.svg").read_text())
    drawn = " ".join(drawn.split())
    [diagram] = re.findall(r"^```mermaid\n(.*?)^```$", text, flags=re.M | re.S)
    words = [part for label in re.findall(r'"([^"]+)"', diagram) for part in label.split("<br>")]
    assert len(words) > 12 and [word for word in words if word not in drawn] == []


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


def test_no_mark_is_left_on_a_page(laid):
    for page, text in laid.items():
        if page.endswith(".ipynb"):
            cells = json.loads(text)["cells"]
            assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# "), page
            assert not any(
                line.startswith("#|") for cell in cells if cell["cell_type"] == "code" for line in cell["source"]
            ), page


def test_pictures_have_a_text_for_those_who_do_not_see_them_and_a_width(pages):
    picture = {"output_type": "display_data", "data": {"image/png": ""}, "metadata": {"image/png": {"width": 300}}}
    text = lambda source: {"cell_type": "markdown", "metadata": {}, "source": [source]}
    cells = [
        text("# A title\n\n## A *part*"),
        code("draw()", outputs=[picture]),
        text("*A kick, [from](x.ipynb) the front*\n\nMore."),
        code("draw()", outputs=[picture]),
    ]
    pages.describe_pictures(cells)
    assert [cell["metadata"]["mystnb"]["image"] for cell in cells[1::2]] == [
        {"alt": "A kick, from the front", "width": "300px"},
        {"alt": "Picture: A part", "width": "300px"},
    ]


def test_no_page_asks_for_anything_from_elsewhere(root, pages, laid):
    "MathJax is a file of a package; nothing else is fetched. Links may lead elsewhere."
    settings = "\n".join((root / "docs" / name).read_text() for name in ("conf.py", "style.css"))
    assert "https://" not in settings and "//cdn" not in settings and 'mathjax_path = "tex-svg.js"' in settings
    for page, text in laid.items():
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(img|script|link)[^>]+https?:", prose(page, text)), page


def test_a_chapter_can_be_opened_elsewhere(root, pages, laid):
    "At the repository of this project; what has to be run first is said in the first chapter alone."
    assert f"pip install git+{pages.REPOSITORY}\n" in laid["index.md"]
    chapters = {page: prose(page, text) for page, text in laid.items() if page.startswith("nbs/book/")}
    assert len(chapters) == 11 and pages.REPOSITORY == "https://github.com/stf-repro/stf_repro"
    for page, text in chapters.items():
        top = text[: text.index("\n## ")]
        assert f"(https://colab.research.google.com/github/stf-repro/stf_repro/blob/main/{page})" in top, page
        assert f"(https://mybinder.org/v2/gh/stf-repro/stf_repro/main?urlpath=lab/tree/{page})" in top, page
    assert [page for page, text in chapters.items() if "pip install" in text] == ["nbs/book/01_the_idea.ipynb"]


def test_a_page_says_which_module_it_is_and_how_to_import_it(laid):
    page = "nbs/networks/ctrgcn.ipynb"
    first = "".join(json.loads(laid[page])["cells"][0]["source"])
    assert first.index("# CTR-GCN") < first.index("\n> ") < first.index("`stf_repro.model.nets.ctrgcn`")
    for page, text in laid.items():
        if page.startswith(("nbs/reference/", "nbs/networks/")):
            first = "".join(json.loads(text)["cells"][0]["source"])
            [line] = re.findall(r"^```python\n(.+?)```", first, flags=re.M | re.S)
            exec(compile(line, page, "exec"), names := {})  # the line can be copied
            assert len(names) > 1


def test_every_exported_name_has_its_place_in_the_notebook_and_its_entry(pages, laid):
    "What leads to `objects.inv`: one place for each name of `__all__`, on the page of its notebook."
    for module in pages.api.modules():
        places = re.findall(r"\{py:\w+\} ([\w.]+)", prose(module.page, laid[module.page]))
        assert len(set(places)) == len(places) and places[0] == module.name
        assert {name for name in places[1:] if "." not in name} == set(module.names), module.page
        text = laid[f"api/{module.package}.md"]
        shown = text[text.index(f"\n## {module.name}\n") :]
        assert all(re.search(rf"^`+\{{py:\w+\}} {name}\b", shown, flags=re.M) for name in module.names)


def test_an_entry_tells_shapes_defaults_and_what_is_raised(pages):
    source = """
@dataclass(frozen=True)
class Clip(Base):
    "A recording."

    bodies: np.ndarray  # (M, T, V, C) in metres
    _hidden: int = 0

    def cut(
        self,
        first: int = 0,  # frame
        *,
        why: str,
    ) -> "Clip":  # at most as long
        "Fewer frames. Raises `ValueError` if none is left. Cheap."

    @property
    def frames(self) -> int:
        "How many."

LIMIT = 3  # bodies at most

def private(): pass
"""
    found = pages.api.entries(source, ["Clip", "LIMIT"])
    assert [(e.kind, e.name) for e in found] == [
        ("class", "Clip"),
        ("attribute", "Clip.bodies"),
        ("method", "Clip.cut"),
        ("property", "Clip.frames"),
        ("data", "LIMIT"),
    ]
    _, bodies, cut, frames, limit = found
    assert bodies.doc == "(M, T, V, C) in metres" and bodies.options == ":type: np.ndarray"
    assert cut.signature == "(first: int=0, *, why: str) -> 'Clip'"
    assert cut.notes == [("param first", "frame"), ("returns", "at most as long")]
    assert frames.options == ":type: int" and (limit.doc, limit.options) == ("bodies at most", ":value: 3")
    text = pages.api.shown(cut, pages.api.module("nbs/reference/201_model.focus.ipynb"))
    assert "Fewer frames. Cheap.\n" in text and "\n:raises ValueError: if none is left\n" in text
    assert pages.api.plain("a `*` in *args, <x> and $y$") == r"a `*` in \*args, \<x> and \$y\$"


def test_the_gallery_has_a_picture_of_each_page_that_it_names(root, pages, tmp_path):
    from PIL import Image

    text = pages.gallery.written(tmp_path)
    shown = re.findall(r"\[!\[[^\]]+\]\((\S+)\) [^\]]+\]\((\S+)\)", text)
    assert 12 <= len(shown) <= 24 and len(set(shown)) == len(shown)
    assert {page for _, page in shown} <= set(pages.pages())
    for picture, _ in shown:
        width, height = Image.open(tmp_path / picture).size
        assert 200 < width <= 480 and height <= width * 1.01, picture


def test_a_broken_link_and_a_picture_from_elsewhere_are_found(root, tmp_path):
    (tmp_path / "a.html").write_text('<a id="x" href="b.html#y">b</a> <a href="b.html#z"></a> <a href="#x"></a>')
    (tmp_path / "b.html").write_text('<p id="y"></p><img src="http://c.d/e.png"><a href="http://c.d"></a><a href="c/">')
    assert load(root, "links").faults(tmp_path) == [
        "a.html leads to b.html#z: no such place on that page",
        "b.html asks elsewhere: http://c.d/e.png",
        "b.html leads to c/, which is not there",
    ]
