"The chapters of the book: what each opens and closes with, its pictures, its size, and that they form one chain."

import base64
import io
import json
import re
import sys
from types import ModuleType

import pytest
from PIL import Image

INTERACTIVE = "11_interactive.ipynb"  # the one chapter with a cell that needs a browser


def chapters(root):
    return sorted((root / "nbs" / "book").glob("*.ipynb"))


def cells(path, kind=None):
    return [c for c in json.loads(path.read_text())["cells"] if kind in (None, c["cell_type"])]


def text(cell):
    return "".join(cell["source"])


def pictures(path):
    return [
        o["data"]["image/png"] for c in cells(path, "code") for o in c["outputs"] if "image/png" in o.get("data", {})
    ]


def test_each_chapter_says_what_it_gives_needs_and_takes(root):
    assert len(chapters(root)) >= 8
    for path in chapters(root):
        first, *_, last = (text(c) for c in cells(path, "markdown"))
        assert re.match(r"# [A-Z].*\n\n> .+", first), path
        for opening in ("\n- **You will be able to** ", "\n- **You need** ", "\n- **It takes** "):
            assert opening in first, f"{path.name} does not open with {opening!r}"
        assert re.search(r"\*\*It takes\*\* \w+ minutes", first), path
        question = r"## One question to try\n\n[^<]+\n\n<details>\n<summary>Answer</summary>\n\n[^<]+\n\n</details>\n\n\*\*Next:\*\* "
        assert re.match(question, last), path  # the blank lines around the answer make it Markdown again


def test_each_chapter_begins_with_its_title_then_its_imports(root):
    "No more than the imports, so that the first thing a reader meets is the subject."
    for path in chapters(root):
        title, imports = cells(path)[:2]
        assert text(title).startswith("# ") and imports["cell_type"] == "code", path
        lines = [line for line in text(imports).splitlines() if line and line != "use_style()"]
        assert all(re.match(r"(from|import) ", line) for line in lines), path


def test_a_cell_of_a_chapter_can_be_taken_in_at_a_glance(root):
    "Drawing is in `report.book`. What is longer is code that a reader is meant to take away: a network, a training, data."
    for path in chapters(root)[:8]:
        for i, cell in enumerate(cells(path)):
            if cell["cell_type"] == "code":
                assert len(text(cell).splitlines()) <= 20, f"{path.name}[{i}]"


def test_the_book_has_one_name_and_one_order_for_the_losses(root):
    "The glossary of chapter 1 gives them; other spellings are not used."
    glossary = next(text(c) for c in cells(chapters(root)[0], "markdown") if text(c).startswith("## A glossary"))
    order = ["exploration $L_e$", "divergence $L_d$", "adjacency $L_{G_k}$", "coherence $L_c$"]
    assert [name for name in re.findall(r"^\| (\w+ \$L_\S+\$) \|", glossary, flags=re.M)] == order
    for path in chapters(root):
        own = "\n".join(text(c) for c in cells(path))
        assert not re.search(r"L_Gk|L_\{Gk\}|element by element|gradient averaged first", own), path
    losses = "\n".join(text(c) for c in cells(chapters(root)[5], "markdown"))
    assert re.findall(r"^## (Exploration|Divergence|Adjacency|Coherence)", losses, flags=re.M) == [
        "Exploration",
        "Divergence",
        "Adjacency",
        "Coherence",
    ]


def test_the_code_of_the_stf_module_in_the_book_is_that_of_the_package(root):
    "Chapter 5 shows what is exported, whole."
    import inspect

    from stf_repro.model import stf

    shown = "\n".join(
        "".join(o.get("text", "")) for c in cells(chapters(root)[4], "code") for o in c["outputs"] if "text" in o
    )
    for part in (stf.focus_predictor, stf.FocusAttention, stf.centred_softmax, stf.STFModule):
        assert inspect.getsource(part).strip() in shown, part


def test_the_chapters_form_a_chain(root):
    paths = chapters(root)
    assert [p.name[:2] for p in paths] == [f"{i:02d}" for i in range(1, len(paths) + 1)]
    for path, following in zip(paths, paths[1:]):
        assert f"]({following.name})" in text(cells(path, "markdown")[-1]), (
            f"{path.name} does not lead on to {following.name}"
        )


def test_there_are_enough_pictures_and_none_is_shown_twice(root):
    for path in chapters(root):
        words = sum(len(re.sub(r"\$\$?.*?\$\$?", "", text(c), flags=re.S).split()) for c in cells(path, "markdown"))
        shown = pictures(path)
        assert 300 * len(shown) >= words, f"{path.name}: {len(shown)} pictures for {words} words"
        assert len(set(shown)) == len(shown) and all(base64.b64decode(png)[:4] == b"\x89PNG" for png in shown)
        assert path.stat().st_size < 500_000


def test_a_picture_has_a_caption(root):
    "The next cell of prose after it begins in italics."
    for path in chapters(root):
        own = cells(path)
        for i, cell in enumerate(own):
            if cell["cell_type"] == "code" and any("image/png" in o.get("data", {}) for o in cell["outputs"]):
                following = next(text(c) for c in own[i + 1 :] if c["cell_type"] == "markdown")
                assert re.match(r"\*[^*]", following), f"{path.name}[{i}]: a picture without a caption"


def test_chapters_were_run_in_order_and_hold_no_noise(root):
    for path in chapters(root):
        source = path.read_text()
        assert "skip_exec" not in source and "default_exp" not in source
        apart = [c for c in cells(path, "code") if "eval: false" in text(c)]  # what nbdev leaves out
        assert [path.name for _ in apart] == [INTERACTIVE] * (path.name == INTERACTIVE) and not any(
            c["outputs"] for c in apart
        ), path
        for c in cells(path, "code"):
            assert all(o.get("name") != "stderr" and o["output_type"] != "error" for o in c["outputs"]), path


@pytest.mark.parametrize("mark", ["stated", "ours"])
def test_what_the_paper_says_is_told_from_what_we_chose(root, mark):
    "Where the paper's words are used; codes of CHOICES.md stay there."
    marked = [path.name for path in chapters(root) if re.search(rf"\*\*{mark}\b", path.read_text(), re.I)]
    assert len(marked) >= 6
    for path in chapters(root):
        assert not re.search(r"\bC\d{1,2}\b", "\n".join(text(c) for c in cells(path))), (
            f"{path.name} has a code of CHOICES.md"
        )


def test_the_first_chapter_needs_nothing_but_the_package(root):
    "No file of the project, so that it can be read from an installed package."
    code = "\n".join(text(c) for c in cells(chapters(root)[0], "code"))
    assert "project_root" not in code and "../" not in code and "open(" not in code


class Widget:
    "Stands in for all widgets: has a value, and tells who watches it."

    def __init__(self, children=(), **options):
        self.__dict__.update(options)
        self.children, self.watchers = children, []

    def observe(self, do, name):
        assert name == "value"
        self.watchers.append(do)

    def choose(self, value):
        self.value = value
        for do in self.watchers:
            do({"new": value})


def test_each_menu_exchanges_the_picture(root, monkeypatch):
    "The last cell, which no headless run executes, with stand-ins for the widgets; what it calls is the code of the chapter."
    path = root / "nbs" / "book" / INTERACTIVE
    (apart,) = (c for c in cells(path, "code") if "eval: false" in text(c))
    assert apart["metadata"]["tags"] == ["skip-execution"]  # nbconvert leaves out cells with this tag
    stand_in = ModuleType("ipywidgets")
    for name in re.search(r"from ipywidgets import (.+)", text(apart))[1].split(", "):
        setattr(stand_in, name, Widget)
    monkeypatch.setitem(sys.modules, "ipywidgets", stand_in)
    own = {}
    for c in cells(path, "code"):
        exec(compile(text(c), path.name, "exec"), own)
    assert "Output" not in text(apart)  # nbclient answers it while the cell still runs, and both wait
    menus = {menu.description: menu for menu in own["menus"]}
    assert list(menus) == ["class", "network", "module", "frame"] and not menus["frame"].continuous_update
    pictures = [own["shown"].value]
    for name, value in (
        ("class", "push"),
        ("network", "synth60-msg3d"),
        ("module", "g3d3"),
        ("frame", menus["frame"].max),
        ("frame", menus["frame"].min),
    ):
        assert name == "frame" or value in menus[name].options
        menus[name].choose(value)
        pictures.append(own["shown"].value)
    assert len(set(pictures)) == len(pictures)
    assert len({Image.open(io.BytesIO(png)).size for png in pictures}) == 1  # the page below does not jump
