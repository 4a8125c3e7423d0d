"""The built site: strict, complete, correct links, and nothing from another host in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from docs.site import check_site, get_scripts, modules
from hipie import add_hipie_config

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or ""
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
WIDTHS = (1280, 390)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        not all(find_spec(name) for name in ("mkdocs", "material", "mkdocstrings_handlers")),
        reason="`make docs` installs the packages of the site",
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built by MkDocs."""
    if get_scripts.main():
        pytest.skip("the scripts of the site are not there, and npm did not get them")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_links_are_correct_and_nothing_is_of_another_host(site):
    assert not check_site.broken(site)


def test_every_public_name_and_key_has_a_place(site):
    from detectron2.config import get_cfg

    from hipie.config.loading import keys

    api = {
        place
        for page in (site / "reference/api").glob("*.html")
        for place in check_site.Page(page).ids
    }
    targets = {modules.defined_in(value) for _, _, value in modules.public_names()}
    assert len(targets) > 40
    assert targets - {""} <= api
    cfg = get_cfg()
    add_hipie_config(cfg)
    ids = {
        place
        for page in (site / "reference/config").glob("*.html")
        for place in check_site.Page(page).ids
    }
    missing = {key for key in keys(cfg) if key.replace(".", "-").lower() not in ids}
    assert not missing, missing


def test_every_public_method_of_the_segmenter_is_documented(site):
    from hipie import Segmenter

    text = (site / "reference/api/hipie.html").read_text(encoding="utf-8")
    methods = [name for name in vars(Segmenter) if not name.startswith("_")]
    assert {"segment", "refer", "refer_group", "from_pretrained"} <= set(methods)
    for name in methods:
        assert f'id="hipie.predictor.Segmenter.{name}"' in text, name


@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium on this machine")
def test_a_browser_reads_it_without_another_host(site):
    """From files, without a server: search, diagrams, and no page wider than a phone."""
    playwright = pytest.importorskip("playwright.sync_api")
    shots = ROOT / "output/site_shots"
    shots.mkdir(parents=True, exist_ok=True)
    addresses: list[str] = []
    names = ["index", "architecture", "reference/config/hipie", "reference/models"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for width in WIDTHS:
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.set_default_timeout(300_000)
            page.on("request", lambda request: addresses.append(request.url))
            for name in names:
                page.goto(f"file://{site}/{name}.html")
                page.screenshot(path=shots / f"{name.replace('/', '_')}_{width}.png")
                assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            page.close()
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(300_000)
        page.on("request", lambda request: addresses.append(request.url))
        page.goto(f"file://{site}/architecture.html")
        # The theme draws a diagram in a closed shadow root in place of the block of code.
        page.wait_for_function("document.querySelectorAll('pre.mermaid').length === 0")
        page.keyboard.press("/")
        page.keyboard.type("MODEL.HIPIE.HIDDEN_DIM", delay=50)
        page.wait_for_selector(".md-search-result__item a")
        links = page.eval_on_selector_all(
            ".md-search-result__item a", "nodes => nodes.map(node => node.href)"
        )
        browser.close()
    assert any(re.search(r"reference/config/hipie\.html", link) for link in links), links
    assert len(addresses) > 20
    others = [a for a in addresses if not a.startswith(("file:", "data:", "blob:"))]
    assert not others, others
