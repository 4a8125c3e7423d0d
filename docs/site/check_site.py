"""Check the built site: every link leads to a page and a place in it, nothing is of another host.

python docs/site/check_site.py output/site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose addresses a browser reads by itself when it shows a page.
READ = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "link": "href",
}
# Values of a <link>'s `rel` that a browser does not read.
NOT_READ = {"canonical", "next", "prev", "edit"}
STYLE_ADDRESS = re.compile(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?(https?:)?//")


class Page(HTMLParser):
    """Addresses and ids of an HTML file.

    Attributes:
        ids: of all elements.
        links: addresses of `<a>`.
        resources: addresses that a browser reads to show the page.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what an element has."""
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.ids.add(values["id"])
        if tag == "a":
            self.ids.add(values.get("name", ""))
            self.links.append(values.get("href", ""))
        if tag in READ and not NOT_READ & set(values.get("rel", "").split()):
            self.resources.append(values.get(READ[tag], ""))


def broken(site: Path) -> list[str]:
    """Return what is wrong in a built site, a line each.

    Args:
        site: its folder.
    """
    pages = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html"))}
    problems = []
    for file, page in pages.items():
        where = file.relative_to(site.resolve()).as_posix()
        for address in page.resources:
            if urlsplit(address).netloc:
                problems.append(f"{where} reads {address} of another host")
        for address in (*page.links, *page.resources):
            problems += _problems_of(address, file, where, pages)
    for style in site.rglob("*.css"):
        if STYLE_ADDRESS.search(style.read_text(encoding="utf-8")):
            problems.append(f"{style.relative_to(site)} reads from another host")
    return problems


def _problems_of(address: str, file: Path, where: str, pages: dict[Path, Page]) -> list[str]:
    parts = urlsplit(address)
    # MkDocs writes 404.html with addresses from the root of a server.
    if parts.scheme or parts.netloc or not address or where == "404.html":
        return []
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return [f"{where}: {address} leads nowhere"]
    fragment = unquote(parts.fragment)
    if fragment and target in pages and fragment not in pages[target].ids:
        return [f"{where}: {address} is no place of that page"]
    return []


def main(arguments: list[str]) -> int:
    """Print what is wrong in a site; the exit status is 1 if there is something."""
    site = Path(arguments[0])
    problems = broken(site)
    if not list(site.rglob("*.html")):
        problems.append(f"{site} has no pages")
    print("\n".join(problems) or f"{site}: all links are correct")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
