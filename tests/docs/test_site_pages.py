"""Pages of the documentation site: navigation, links between documents, the check of the site."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from pathlib import Path

import pytest

from docs.site import check_site, documents, get_scripts

ROOT = Path(__file__).parents[2]
SETTINGS = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_every_document_is_in_the_navigation():
    named = set(re.findall(r"[\w./-]+\.md", SETTINGS.split("\nnav:")[1]))
    pages = {page for page in documents.documents().values() if not page.startswith("notebooks/")}
    assert {"index.md", "training.md", "projects/GRSer/README.md", "CHANGELOG.md"} <= pages
    assert pages <= named, pages - named
    absent = {name for name in named if name not in pages and not name.startswith("reference/")}
    assert not absent, absent


def test_readers_find_the_four_parts():
    parts = re.findall(r"^  - ([\w-]+):$", SETTINGS.split("\nnav:")[1], re.M)
    assert parts == ["Start", "How-to", "Systems", "Reference"]


def test_settings_name_no_other_host():
    assert re.search(r"^  font: false$", SETTINGS, re.M)
    assert "://" not in re.sub(r"^ *#.*$", "", SETTINGS, flags=re.M)


def test_every_relative_link_of_a_document_leads_to_a_page():
    pages = documents.documents()
    sources = {f"source/{path}.md" for path in documents.linked_sources()}
    known = {*pages.values(), *sources}
    number = 0
    for document, page in pages.items():
        if document.endswith(".ipynb"):
            continue
        text = (ROOT / document).read_text(encoding="utf-8")
        moved = documents.moved_links(text, document, pages)
        assert len(documents.LINK.findall(moved)) == len(documents.LINK.findall(text))
        targets: list[str] = []
        documents.outside_code(
            moved,
            lambda part, targets=targets: (
                targets.extend(match[2] for match in documents.LINK.finditer(part)) or part
            ),
        )
        for target in targets:
            path = target.partition("#")[0]
            if "://" in target or not path:
                continue
            place = os.path.normpath(os.path.join(os.path.dirname(page), path))
            is_image = place.endswith((".png", ".jpg")) and (ROOT / "docs" / place).is_file()
            assert place in known or place.startswith("reference/") or is_image, f"{page}: {target}"
            number += 1
    assert number > 100


@pytest.mark.parametrize(
    ("document", "link", "expected"),
    [
        ("README.md", "[a](docs/ops.md)", "[a](ops.md)"),
        ("docs/ops.md", "[a](training.md#stages)", "[a](training.md#stages)"),
        ("docs/ops.md", "[a](../README.md)", "[a](index.md)"),
        ("projects/GRSer/README.md", "[a](../../docs/ops.md#b)", "[a](../../ops.md#b)"),
        (
            "docs/ops.md",
            "[a](../hipie/ops/module.py)",
            "[a](reference/api/hipie.ops.md#hipie.ops.module)",
        ),
        (
            "docs/ops.md",
            "[a](../projects/GRSer/grser/build.py)",
            "[a](reference/api/grser.md#grser.build)",
        ),
        ("docs/ops.md", "[a](../configs/finetune)", "[a](reference/configs.md)"),
        ("docs/ops.md", "[a](../cluster/slurm.sh)", "[a](source/cluster/slurm.sh.md)"),
        ("README.md", "![a](docs/images/x.png)", "![a](images/x.png)"),
        ("README.md", "[a](https://example.org/b) [c](#d)", "[a](https://example.org/b) [c](#d)"),
    ],
)
def test_links_are_those_of_the_page(document, link, expected):
    assert documents.moved_links(link, document, documents.documents()) == expected


def test_links_in_blocks_of_code_stay():
    text = "```\n[a](docs/ops.md)\n```\n\n    [a](docs/ops.md)\n\n[a](docs/ops.md)\n"
    moved = documents.moved_links(text, "README.md", documents.documents())
    assert moved == text[: text.rindex("(")] + "(ops.md)\n"


def site(folder: Path, **pages: str) -> list[str]:
    """What the check says about a site of these pages."""
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><head></head><body>{body}</body></html>")
    return check_site.broken(folder)


def test_a_correct_site_passes_the_check(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    body = '<h2 id="x">x</h2><a href="b.html#y">b</a><img src="a.png"><a href="https://a.org">a</a>'
    assert site(tmp_path, a=body, b='<p id="y"><a href="a.html#x">a</a>') == []
    assert check_site.main([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('<a href="c.html">c</a>', "a.html: c.html leads nowhere"),
        ('<a href="#z">z</a>', "a.html: #z is no place of that page"),
        ('<a href="b.html#z">z</a>', "a.html: b.html#z is no place of that page"),
        ('<img src="c.png">', "a.html: c.png leads nowhere"),
        ('<script src="https://c.org/d.js"></script>', "a.html reads https://c.org/d.js"),
        ('<link rel="stylesheet" href="//c.org/d.css">', "a.html reads //c.org/d.css"),
    ],
)
def test_the_check_names_what_is_wrong(body, problem, tmp_path, capsys):
    (line,) = site(tmp_path, a=body, b="<p>")
    assert line.startswith(problem)
    assert check_site.main([str(tmp_path)]) == 1
    assert problem in capsys.readouterr().out


def test_the_check_reads_style_sheets(tmp_path):
    (tmp_path / "s.css").write_text("@font-face { src: url('https://c.org/f.woff2') }")
    assert site(tmp_path, a="<p>") == ["s.css reads from another host"]


def test_a_site_without_pages_fails_the_check(tmp_path):
    assert check_site.main([str(tmp_path)]) == 1


def test_only_the_expected_package_is_accepted():
    content = b"an archive"
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    script = get_scripts.Script("a", "1", f"sha512-{digest}", "package/a.js", "")
    assert get_scripts.is_expected(content, script)
    assert not get_scripts.is_expected(content + b"!", script)


def test_scripts_without_npm_are_an_error_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(get_scripts, "FOLDER", tmp_path)
    monkeypatch.setenv("PATH", "")
    assert get_scripts.main() == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(get_scripts.SCRIPTS)
    assert all("install Node.js" in line for line in lines)


def test_a_notebook_becomes_a_page(tmp_path):
    notebook = tmp_path / "a.ipynb"
    notebook.write_text(
        '{"cells": [{"cell_type": "markdown", "source": ["# A\\n", "text"]},'
        ' {"cell_type": "code", "source": ["x = 1\\n", "x"], "outputs": []}]}'
    )
    assert documents.notebook_page(notebook) == "# A\ntext\n\n```python\nx = 1\nx\n```\n"
