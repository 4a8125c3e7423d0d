"""Pages of the site that are documents of the repository, and what their links lead to there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from docs.site.modules import module_of, page_of

ROOT = Path(__file__).parents[2]
# Documents outside docs/ that are pages; "*" stands for a folder.
OUTSIDE = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("datasets/README.md", "benchmarks/RESULTS.md", "projects/*/README.md"),
    *("hipie/examples/photographs/SOURCES.md", "hipie/vocabularies/README.md"),
)
# Files that a page of the reference contains.
CONTAINED = {
    "hipie/model_zoo/weights/README.md": "reference/models.md",
    "projects/GRSer/grser/weights/README.md": "reference/models.md",
}
LINK = re.compile(r"(!?\[[^\]\n]*\]\()([^)\s]+)(\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".cff": "yaml", ".json": "json"}


def outside_documents() -> list[Path]:
    """Return the documents outside docs/ that are pages."""
    return [path for pattern in OUTSIDE for path in sorted(ROOT.glob(pattern))]


def site_path(path: str) -> str:
    """Return the page of a document: README.md of the root is index.md, `docs/` is left out."""
    if path == "README.md":
        return "index.md"
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return path.removeprefix("docs/")


def documents() -> dict[str, str]:
    """Return all documents of the repository that are pages, and their pages."""
    files = [*ROOT.glob("docs/*.md"), *outside_documents(), *ROOT.glob("notebooks/*.ipynb")]
    paths = [path.relative_to(ROOT).as_posix() for path in sorted(files)]
    return {path: site_path(path) for path in paths}


def target_of(path: str, pages: dict[str, str]) -> str:
    """Return the page that shows a file or folder of the repository.

    Args:
        path: from the root.
        pages: of `documents`.
    """
    if path in pages:
        return pages[path]
    if path in CONTAINED:
        return CONTAINED[path]
    file = ROOT / path
    if file.suffix in (".png", ".jpg") and path.startswith("docs/"):
        return site_path(path)
    if module := module_of(file):
        return f"reference/{page_of(module)}#{module}"
    if path == "notebooks":
        return pages["notebooks/segment_your_photos.ipynb"]
    parts = Path(path).parts
    if "configs" in parts:
        return "reference/configs.md"
    return f"source/{path}.md"


def moved_links(text: str, document: str, pages: dict[str, str]) -> str:
    """Write the relative links of a document as those of its page.

    Blocks of code stay as they are.

    Args:
        text: of the document.
        document: its path from the root of the repository.
        pages: of `documents`.
    """
    own = pages[document]

    def moved(match: re.Match[str]) -> str:
        target, hash_sign, fragment = match[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        path = os.path.normpath(os.path.join(os.path.dirname(document), target))
        page, page_hash, place = target_of(path, pages).partition("#")
        relative = os.path.relpath(page, os.path.dirname(own) or ".")
        suffix = f"{page_hash}{place}" if page_hash else f"{hash_sign}{fragment}"
        return f"{match[1]}{relative}{suffix}{match[3]}"

    return outside_code(text, lambda part: LINK.sub(moved, part))


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Change the lines that are outside of blocks of code."""
    fenced, indented, lines = False, False, []
    previous = ""
    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        starts = not previous.strip() and line.startswith("    ")
        indented = line.startswith("    ") and (indented or starts)
        lines.append(line if fenced or indented else change(line))
        previous = line
    return "\n".join(lines)


def linked_sources() -> set[str]:
    """Return the files that a document links to and that have a page of their own for it."""
    pages = documents()
    result = set()
    for document in pages:
        if document.endswith(".ipynb"):
            continue
        text = (ROOT / document).read_text(encoding="utf-8")

        def collect(part: str, folder: str = os.path.dirname(document)) -> str:
            for match in LINK.finditer(part):
                target = match[2].partition("#")[0]
                if target and "://" not in target:
                    path = os.path.normpath(os.path.join(folder, target))
                    if target_of(path, pages) == f"source/{path}.md":
                        result.add(path)
            return part

        outside_code(text, collect)
    return result


def source_page(path: str) -> str:
    """Return a page that shows a file of the repository."""
    file = ROOT / path
    language = LANGUAGES.get(file.suffix, "text")
    text = file.read_text(encoding="utf-8").rstrip()
    return f"# {path}\n\n````{language}\n{text}\n````\n"


def notebook_page(file: Path) -> str:
    """Return a notebook as Markdown: its text, and its code as blocks."""
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        source = "".join(cell["source"]).strip()
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"
