"""Look at the built site with a browser: every page at two widths. Not part of `make test`.

pip install playwright            # in an environment of its own; the browser is the system's
python docs/check.py _site        # or: python docs/check.py _site FOLDER, for pictures of the pages
"""

import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS = (390, 1280)  # a phone, a laptop
BROKEN = "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
UNNAMED = "[...document.images].filter(i => !i.hasAttribute('alt')).length"
MATHS = "[...document.querySelectorAll('.math.notranslate')].filter(m => !m.querySelector('mjx-container svg')).length"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder: Path) -> str:
    "Serve a folder on this machine alone; returns the address."
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/"


def look(page, base: str, path: str, width: int, pictures: Path | None) -> list[str]:
    "What is wrong with a page at a width."
    wrong = []
    page.set_viewport_size({"width": width, "height": 900})
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on(
        "request",
        lambda request: (
            wrong.append(f"asks elsewhere: {request.url}")
            if not request.url.startswith((base, "data:", "blob:"))
            else None
        ),
    )
    page.on(
        "response",
        lambda response: wrong.append(f"{response.status}: {response.url}") if response.status >= 400 else None,
    )
    page.goto(base + path, wait_until="networkidle")
    if page.evaluate(MATHS):
        page.wait_for_function(f"!({MATHS})", timeout=20000)
        page.wait_for_load_state("networkidle")
    wrong += [f"broken picture: {source}" for source in page.evaluate(BROKEN)]
    if beyond := page.evaluate(SIDEWAYS):
        wrong.append(f"scrolls sideways by {beyond} pixels")
    if unnamed := page.evaluate(UNNAMED):
        wrong.append(f"{unnamed} pictures without alternative text")
    if page.locator("[data-mml-node=merror]").count():
        wrong.append("a formula with an error")
    if pictures:
        page.screenshot(path=pictures / f"{path.removesuffix('.html').replace('/', '.')}-{width}.png", full_page=True)
    return wrong


def main(site: Path, pictures: Path | None = None) -> int:
    "Look at all pages; returns how many faults were found."
    faults, base = 0, serve(site)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        for path in sorted(p.relative_to(site).as_posix() for p in site.rglob("*.html") if "_static" not in p.parts):
            for width in WIDTHS:
                page = browser.new_page()
                for fault in look(page, base, path, width, pictures):
                    faults += 1
                    print(f"{path} at {width} pixels: {fault}", flush=True)
                page.close()
        browser.close()
    print(f"{faults} faults")
    return faults


if __name__ == "__main__":
    sys.exit(min(main(*map(Path, sys.argv[1:])), 1))
