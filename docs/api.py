"""What each notebook exports, for the site: its names, so that others can link to them, and a page a package.

Nothing is imported: signatures, docstrings and the comments beside parameters are read from the cells. (Sphinx's own
tools for this import the package, know nothing of such comments, and their links lead to pages of theirs.)
"""

import ast
import io
import json
import re
import textwrap
import tokenize
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("nbs/reference", "nbs/networks")
PACKAGES = {  # a page each, in the order in which they build on one another; the titles stand in the sidebar
    "stf_repro": "Skeletons, and the command line",
    "stf_repro.data": "Data",
    "stf_repro.data.sets": "Data sets",
    "stf_repro.data.synthetic": "Synthetic data",
    "stf_repro.model": "The model",
    "stf_repro.model.fast": "The same networks, cheaper",
    "stf_repro.model.nets": "The networks, a page each",
    "stf_repro.training": "Training networks",
    "stf_repro.evaluation": "Evaluation",
    "stf_repro.report": "The report",
    "stf_repro.report.tables": "The tables of the report",
    "stf_repro.custom": "Recordings of your own",
    "stf_repro.bench": "What it costs",
    "stf_repro.commands": "The commands of stf",
}
RAISES = re.compile(r" ?Raises `([\w.]+)` (.+?)\.(?= |$)", flags=re.M)
TITLE = re.compile(r"\A# (.+)\n(?:\n> (.+)(?:\n|\Z))?")


@dataclass(frozen=True)
class Entry:
    "A name that a module exports, or one of a class, as Sphinx's Python domain has it."

    kind: str  # of directive: function, class, method, property, attribute, data
    name: str  # within the module, such as `Layout.bones`
    signature: str = ""  # parameters in parentheses, and what comes out
    doc: str = ""
    notes: list[tuple[str, str]] = field(default_factory=list)  # fields: `:param Q:`, and what is said of it
    options: str = ""  # further lines of the directive


@dataclass(frozen=True)
class Module:
    "A notebook that exports."

    page: str  # path of the notebook from the root
    name: str  # dotted
    title: str
    quote: str  # the line under the title
    names: list[str]  # `__all__`
    cells: list[str]  # what is exported, without nbdev's marks

    @property
    def package(self) -> str:
        return self.name.rpartition(".")[0]


def exported(name: str) -> list[str]:
    "The `__all__` of an exported module."
    path = ROOT / f"{name.replace('.', '/')}.py"
    found = re.search(r"^__all__ = (\[.*?\])$", path.read_text(), flags=re.M | re.S)
    return ast.literal_eval(found[1]) if found else []


def module(page: str) -> Module | None:
    "What a notebook exports; None if it exports nothing."
    if not page.startswith(FOLDERS):
        return None
    cells = json.loads((ROOT / page).read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    name = "stf_repro." + sources[0].split("default_exp ")[1].strip()
    title, quote = TITLE.match("".join(next(c for c in cells if c["cell_type"] == "markdown")["source"])).groups()
    marked = [source for source in sources if source.startswith("#| export")]
    return Module(page, name, title, quote or "", exported(name), [re.sub(r"(?m)^#\| .*\n", "", s) for s in marked])


def modules() -> list[Module]:
    "All notebooks that export, in the order of their packages."
    pages = [path.relative_to(ROOT).as_posix() for f in FOLDERS for path in sorted((ROOT / f).glob("*.ipynb"))]
    return sorted(map(module, pages), key=lambda m: [*PACKAGES].index(m.package))


def comments(source: str) -> dict[int, str]:
    "The comments of a cell by their line."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}


def parameters(node: ast.FunctionDef, said: dict[int, str]) -> list[tuple[str, str]]:
    "What is said of each parameter, and of what comes out, in the comments at the ends of their lines."
    args = node.args
    named = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    last = {arg.lineno: f"param {arg.arg}" for arg in named if arg} | (
        {node.returns.end_lineno: "returns"} if node.returns else {}
    )
    return [(what, said[line]) for line, what in last.items() if line in said]


def function(node: ast.FunctionDef, said: dict[int, str], within: str = "") -> Entry:
    "A function; `within` a class a method or a property."
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    out = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    doc, notes = ast.get_docstring(node) or "", parameters(node, said)
    if not within:
        return Entry("function", node.name, f"({ast.unparse(node.args)}){out}", doc, notes)
    name = f"{within}.{node.name}"
    if marks & {"property", "cached_property", "functools.cached_property"}:
        return Entry("property", name, "", doc, notes, f":type: {out[4:]}" if out else "")
    args = ast.unparse(node.args)
    if "staticmethod" not in marks:  # the first is self
        args = re.sub(r"^\w+(, /)?(, )?", "", args)
    kinds = "\n".join(f":{mark}:" for mark in ("staticmethod", "classmethod", "abstractmethod") if mark in marks)
    return Entry("method", name, f"({args}){out}", doc, notes, kinds)


def class_entries(node: ast.ClassDef, said: dict[int, str]) -> list[Entry]:
    "A class, its fields and its public methods."
    public = lambda name: not name.startswith("_") or name == "__call__"
    inside = {f.name: function(f, said, node.name) for f in node.body if isinstance(f, ast.FunctionDef)}
    made = inside.get("__init__")
    bases = ", ".join(map(ast.unparse, node.bases))
    doc = "\n\n".join(filter(None, [ast.get_docstring(node) or "", f"A `{bases}`." if bases else ""]))
    first = Entry("class", node.name, made.signature if made else "", doc, made.notes if made else [])
    fields = [
        replace(assigned(f, said, f"{node.name}.{f.target.id}"), kind="attribute")
        for f in node.body
        if isinstance(f, ast.AnnAssign) and public(f.target.id)
    ]
    return [first, *fields, *(entry for name, entry in inside.items() if public(name))]


def assigned(node: ast.Assign | ast.AnnAssign, said: dict[int, str], name: str) -> Entry:
    "A constant, or a field of a class."
    value = ast.unparse(node.value) if node.value else ""
    options = [f":value: {value}"] if value and len(value) < 80 else []
    if isinstance(node, ast.AnnAssign):
        options = [f":type: {ast.unparse(node.annotation)}", *options]
    return Entry("data", name, "", said.get(node.lineno) or said.get(node.end_lineno, ""), [], "\n".join(options))


def entries(source: str, names: list[str]) -> list[Entry]:
    "The exported names of a cell, each class followed by what it holds."
    said, found = comments(source), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found += [function(node, said)]
        elif isinstance(node, ast.ClassDef):
            found += class_entries(node, said)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [assigned(node, said, n.id) for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return [entry for entry in found if entry.name.split(".")[0] in names]


def places(source: str, about: Module) -> str:
    "Where the names of a cell are defined: nothing to be seen, but `objects.inv` leads here."
    return "\n\n".join(
        f"```{{py:{entry.kind}}} {entry.name}{'()' * (entry.kind in ('function', 'method'))}\n:no-typesetting:\n```"
        for entry in entries(source, about.names)
    )


def import_line(about: Module) -> str:
    "How a module's names are imported, on several lines if they are many."
    names = ", ".join(about.names)
    if not names:
        return f"import {about.name}"
    if len(line := f"from {about.name} import {names}") <= 112:
        return line
    return (
        f"from {about.name} import (\n{textwrap.fill(names, 96, initial_indent='    ', subsequent_indent='    ')},\n)"
    )


def head(about: Module, up: str) -> str:
    "The name of a module and its import line, for the top of its page. `up` leads to the root."
    place = f"```{{py:module}} {about.name}\n:synopsis: {about.quote}\n:no-typesetting:\n```"
    where = f"Module [`{about.name}`]({up}/api/{about.package}.md#{about.name})"
    return f"{place}\n\n{where}\n\n```python\n{import_line(about)}\n```\n"


def plain(text: str) -> str:
    "A docstring for Markdown: what is between backticks stays code, all other signs are what they are."
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(p if p.startswith("`") and len(p) > 1 else re.sub(r"([\\*_<$\[|])", r"\\\1", p) for p in parts)


def shown(entry: Entry, about: Module) -> str:
    "An entry to be read."
    link = f"{{py:obj}}`in its notebook <{about.name}.{entry.name}>`" if "." not in entry.name else ""
    raised = [(f"raises {what}", when) for what, when in RAISES.findall(entry.doc)]
    notes = "\n".join(f":{what}: {plain(text)}" for what, text in [*entry.notes, *raised])
    body = "\n\n".join(filter(None, [plain(RAISES.sub("", entry.doc)), notes, link]))
    options = "\n".join(filter(None, [":no-index:", entry.options]))
    return f"``````{{py:{entry.kind}}} {entry.name}{entry.signature}\n{options}\n\n{body}\n``````"


def page_of(package: str, of: list[Module]) -> str:
    "The page of a package: its notebooks, then the names that they export."
    parts = [f"# {PACKAGES[package]}", f"The notebooks that define `{package}`, and what they export."]
    parts.append("```{toctree}\n:titlesonly:\n\n" + "\n".join(f"/{m.page}" for m in of) + "\n```")
    for m in of:
        parts += [f"## {m.name}", f"[{m.title}](../{m.page}). {m.quote}", f"```{{py:currentmodule}} {m.name}\n```"]
        parts += [shown(entry, m) for cell in m.cells for entry in entries(cell, m.names)]
    return "\n\n".join(parts) + "\n"


def pages() -> dict[str, str]:
    "A page a package, by its path on the site."
    found = modules()
    return {f"api/{name}.md": page_of(name, [m for m in found if m.package == name]) for name in PACKAGES}
