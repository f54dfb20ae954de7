"Sphinx, for `make site`. The pages are laid out by pages.py."

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT, PAGES = HERE.parent, HERE.parent / "build" / "site"
sys.path.insert(0, str(HERE))

project = "stf_repro"
author = "the stf_repro authors"
version = release = re.search(r'"(.+)"', (ROOT / "stf_repro" / "__init__.py").read_text())[1]
language = "en"
smartquotes = False

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["_static"]
nb_execution_mode = "off"  # the outputs are stored
nb_merge_streams = True
nb_code_prompt_show = "▸ Code"
nb_code_prompt_hide = "▾ Code"
nb_render_markdown_format = "myst"  # tables among the outputs
myst_enable_extensions = ["dollarmath", "colon_fence", "fieldlist"]
myst_heading_anchors = 4
myst_heading_slug_func = "conf.slug"  # as JupyterLab writes the address of a heading

# Names: where they are defined stands in the notebooks, see api.py
add_module_names = False
maximum_signature_line_length = 90
toc_object_entries = False
suppress_warnings = ["ref.python"]  # a type in a signature may be found in two modules; then the first is taken
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "furo"
html_title = f"stf_repro {version}"
html_static_path = [str(PAGES / "_static")]
html_favicon = "icon.svg"
html_css_files = ["style.css"]
html_copy_source = False
html_show_copyright = False

# Local: no page asks for anything from elsewhere
mathjax_path = "tex-svg.js"
mathjax3_config = {"options": {"ignoreHtmlClass": "page", "processHtmlClass": "math", "enableMenu": False}}
myst_update_mathjax = False


def setup(app):
    app.set_html_assets_policy("always")  # Sphinx overlooks formulas inside a table


def slug(title: str) -> str:
    "The address of a heading."
    return title.strip().replace(" ", "-")
