"""Follow every link of the built site, to the place it names: `python docs/links.py _site`. `make site` does it.

Links to other hosts are not followed. A picture, a script or a style sheet from another host is a fault: pages ask for
nothing elsewhere.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    "What a page links to, what it loads, and the places in it that can be linked to."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.loads, self.places = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        if tag == "a" and attrs.get("href"):
            self.links.add(attrs["href"])
        if (target := attrs.get(LOADED.get(tag, ""))) and attrs.get("rel") not in ("canonical", "license"):
            self.loads.add(target)


def faults(site: Path) -> list[str]:
    "Links that lead nowhere, and what is asked of other hosts."
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        found += [f"{name} asks elsewhere: {x}" for x in page.loads if urlsplit(x).netloc]
        for link in sorted(x for x in page.links | page.loads if not (urlsplit(x).scheme or urlsplit(x).netloc)):
            target, place = urldefrag(link)
            goal = (path.parent / unquote(urlsplit(target).path)).resolve() if urlsplit(target).path else path
            if not goal.exists():
                found.append(f"{name} leads to {link}, which is not there")
            elif place and goal in pages and unquote(place) not in pages[goal].places:
                found.append(f"{name} leads to {link}: no such place on that page")
    return found


if __name__ == "__main__":
    broken = faults(Path(sys.argv[1]))
    print(*broken, f"{len(broken)} broken links", sep="\n")
    sys.exit(min(len(broken), 1))
