"""Events of MkDocs: pages made from the code, documents outside docs/, links between both."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [
    path for path in (str(ROOT), *map(str, ROOT.glob("projects/*/"))) if path not in sys.path
]
# Help texts are laid out for the page, not for the terminal that builds it.
os.environ["COLUMNS"] = "90"
os.environ.pop("DETECTRON2_DATASETS", None)

from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

from docs.site import (  # noqa: E402
    commands,
    config_keys,
    data_sets,
    documents,
    get_scripts,
    models,
    modules,
)

PAGES = documents.documents()
DOCUMENT_OF = {page: document for document, page in PAGES.items()}


def reference_pages() -> dict[str, str]:
    """Return the pages that are made from the code: Markdown by path."""
    pages = {f"config/{path}": text for path, text in config_keys.pages().items()}
    for module in (commands, data_sets, models, modules):
        pages |= module.pages()
    return {f"reference/{path}": text for path, text in pages.items()}


def on_config(config: Any) -> Any:
    """Add the pages of API, keys and notebooks to the navigation."""
    lists = {
        "API": [{package: f"reference/api/{package}.md"} for package in modules.packages()],
        "Configuration keys": [f"reference/config/{path}" for path in config_keys.pages()],
        "Notebooks": [page for page in PAGES.values() if page.startswith("notebooks/")],
    }
    config.nav = _filled(config.nav, lists)
    return config


def _filled(nav: Any, lists: dict[str, list[Any]]) -> Any:
    """Return a navigation with the lists in place of entries of their names that are empty."""
    if isinstance(nav, list):
        return [_filled(item, lists) for item in nav]
    if isinstance(nav, dict):
        return {
            name: lists[name] if name in lists and not value else _filled(value, lists)
            for name, value in nav.items()
        }
    return nav


def on_files(files: Files, config: Any) -> Files:
    """Add what is not in docs/: documents, the reference, linked source files, scripts."""
    for script in get_scripts.SCRIPTS:
        if not script.file.is_file():
            raise PluginError(f"{script.file} is missing: run python docs/site/get_scripts.py")
        files.append(File.generated(config, script.place, abs_src_path=str(script.file)))
    pages = reference_pages()
    for document, page in PAGES.items():
        if document.endswith(".ipynb"):
            pages[page] = documents.notebook_page(ROOT / document)
        elif not document.startswith("docs/"):
            pages[page] = (ROOT / document).read_text(encoding="utf-8")
    for path in sorted(documents.linked_sources()):
        pages[f"source/{path}.md"] = documents.source_page(path)
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a document lead to the pages of the site."""
    document = DOCUMENT_OF.get(page.file.src_uri)
    return markdown if document is None else documents.moved_links(markdown, document, PAGES)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load mermaid from the site on pages with diagrams; the theme would load it from a host."""
    if 'class="mermaid"' not in output:
        return output
    place = os.path.relpath(get_scripts.MERMAID.place, os.path.dirname(page.file.dest_uri) or ".")
    return output.replace("</head>", f'<script src="{place}"></script></head>', 1)
