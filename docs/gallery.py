"Pictures worth seeing, from the outputs that the notebooks are stored with; each leads to its page."

import base64
import io
import json
import math
import re
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PARTS = {  # pages by title of their part; of each page the picture that fits best
    "The book": ("nbs/book/*.ipynb",),
    "What was found": (
        "results/report/*/*.ipynb",
        "results/synthetic/figure_focus/*.ipynb",
        "results/explain/*/*.ipynb",
        "results/synthetic/localisation/*.ipynb",
        "results/synthetic/faithfulness/*.ipynb",
        "results/synthetic/table4_scarce/*.ipynb",
        "results/synthetic/occlusion/*.ipynb",
        "results/choices/terms/*.ipynb",
    ),
    "From the workshop": (
        "nbs/networks/msg3d.ipynb",
        "nbs/reference/131_*.ipynb",
        "nbs/reference/134_*.ipynb",
        "nbs/reference/411_*.ipynb",
        "nbs/reference/603_*.ipynb",
    ),
}
WIDTH, SHAPE = 480, 1.4  # of a thumbnail: pixels, and width by height
SMALL = 5000  # bytes; smaller pictures show little


def pictures(page: Path) -> list[bytes]:
    "The pictures among the outputs of a notebook."
    outputs = [o for cell in json.loads(page.read_text())["cells"] for o in cell.get("outputs", [])]
    found = [o.get("data", {}).get(kind) for o in outputs for kind in ("image/png", "image/jpeg")]
    return [base64.b64decode("".join(data)) for data in found if data]


def best(found: list[bytes]) -> bytes:
    "The picture whose shape is nearest to a thumbnail's, among those that show something."
    sized = [(picture, Image.open(io.BytesIO(picture)).size) for picture in found]
    off = lambda item: (len(item[0]) < SMALL, abs(math.log(item[1][0] / item[1][1] / SHAPE)))
    return min(sized, key=off)[0]


def thumbnail(picture: bytes) -> Image.Image:
    "A small copy on white. Of a tall picture the upper part, which can be read."
    whole = Image.open(io.BytesIO(picture)).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    flat = flat.crop((0, 0, flat.width, min(flat.height, round(flat.width / SHAPE))))
    flat.thumbnail((WIDTH, WIDTH))
    return flat


def title(page: Path) -> str:
    "The title of a notebook, without formulas."
    texts = ["".join(c["source"]) for c in json.loads(page.read_text())["cells"] if c["cell_type"] == "markdown"]
    return re.sub(r",[^,$]*\$[^$]*\$", "", re.search(r"^# (.+)$", "\n\n".join(texts), flags=re.M)[1])


def chosen() -> dict[str, list[tuple[Path, bytes]]]:
    "Pages with a picture of each, by part."
    pages = {part: [p for pattern in patterns for p in sorted(ROOT.glob(pattern))] for part, patterns in PARTS.items()}
    return {part: [(p, best(pictures(p))) for p in found if pictures(p)] for part, found in pages.items()}


def written(out: Path) -> str:
    "The page, and its thumbnails in the folder `pictures` of `out`."
    text = [
        "# Gallery",
        "Pictures from all over the project, in small. Each leads to the page that draws and explains it.",
    ]
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for part, found in chosen().items():
        items = []
        for page, picture in found:
            thumbnail(picture).save(out / "pictures" / f"{page.stem}.png", optimize=True)
            path, name = page.relative_to(ROOT).as_posix(), title(page)
            items.append(f"[![Picture from: {name}](pictures/{page.stem}.png) {name}]({path})")
        text += [f"## {part}", ":::{container} gallery\n" + "\n\n".join(items) + "\n:::"]
    return "\n\n".join(text) + "\n"
