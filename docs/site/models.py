"""Reference of the models: the table of models by name, their model cards, all configurations."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from hipie import model_zoo
from hipie.model_zoo.models import HubFile, Model, PackagedFile

ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^# Model card: *`?([\w.-]+)`?.*$", re.MULTILINE)


def model_card(model: Model) -> str:
    """Return the card of packaged weights, a section of a Markdown file beside them; "" without."""
    weights = model_zoo.get_weights(model.config) if model.is_packaged else None
    if weights is None:
        return ""
    for file in sorted(weights.parent.glob("*.md")):
        text = file.read_text(encoding="utf-8")
        parts = HEADING.split(text)
        for name, body in zip(parts[1::2], parts[2::2], strict=True):
            if name == weights.stem:
                return _moved_links(body.strip(), file.parent)
    return ""


def _moved_links(text: str, folder: Path) -> str:
    """Write relative links of a card as those of a file in `docs/reference/`."""

    def moved(match: re.Match[str]) -> str:
        target, _, fragment = match[2].partition("#")
        if not target or "://" in target:
            return match[0]
        path = (folder.resolve() / target).resolve().relative_to(ROOT).as_posix()
        site_path = path.removeprefix("docs/")
        return f"{match[1]}(../{site_path}{'#' + fragment if fragment else ''})"

    return re.sub(r"(\[[^\]]*\])\(([^)\s]+)\)", moved, text)


def source_of(model: Model) -> str:
    """Return where the weights come from."""
    source = model.source
    if isinstance(source, PackagedFile):
        return "in the package"
    if isinstance(source, HubFile):
        link = f"[{source.repository}](https://huggingface.co/{source.repository})"
        return f"{link}, `{source.file}`" if source.file else link
    return f"<{source.url}>"


def entry(model: Model) -> str:
    """Return the section of one model: what the table has of it, and its card."""
    rows = [("Task", model.task), ("Licence of the weights", model.licence)]
    if model.config:
        page = f"configs.md#{config_anchor(model.config)}"
        rows.append(("Configuration", f"[{model.config}]({page})"))
    rows.append(("Weights", source_of(model)))
    if size := getattr(model.source, "size", 0):
        rows.append(("Size", f"{size / 1e6:.0f} MB"))
    if sha256 := getattr(model.source, "sha256", ""):
        rows.append(("SHA-256", f"`{sha256}`"))
    if model.requires[0]:
        rows.append(("Needs", f'`pip install "hipie[{model.requires[1]}]"`'))
    lines = [f"## {model.name} {{ #{model.name} }}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if card := model_card(model):
        card = re.sub(r"^(#+) (.+)$", lambda m: f"#{m[1]} {m[2]}", card, flags=re.MULTILINE)
        lines += ["", card]
    return "\n".join(lines) + "\n"


def config_anchor(name: str) -> str:
    """Return the id of a configuration's heading."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower().removesuffix(".yaml"))


def config_files() -> dict[str, Path]:
    """Return every configuration by its name in the zoo, and every `Base-` file."""
    files = {name: model_zoo.get_config_file(name) for name in model_zoo.names()}
    for folder in {file.parent for file in files.values()}:
        for base in folder.glob("Base-*.yaml"):
            inside = next(name for name, file in files.items() if file.parent == folder)
            files[f"{inside.rpartition('/')[0]}/{base.name}"] = base
    return dict(sorted(files.items()))


def config_entry(name: str, file: Path, trained: dict[str, list[str]]) -> str:
    """Return the section of one configuration: its models, its base, and its text."""
    text = file.read_text(encoding="utf-8").strip()
    lines = [f"## {name} {{ #{config_anchor(name)} }}", ""]
    if name in trained:
        links = ", ".join(f"[{model}](models.md#{model})" for model in trained[name])
        lines += [f"Models with weights: {links}.", ""]
    base = (yaml.safe_load(text) or {}).get("_BASE_")
    if base:
        lines += [f"It changes `{base}`.", ""]
    return "\n".join([*lines, "```yaml", text, "```"]) + "\n"


def pages() -> dict[str, str]:
    """Return the pages of the reference: Markdown by path below `reference/`."""
    models = list(model_zoo.MODELS.values())
    trained: dict[str, list[str]] = {}
    for model in models:
        if model.config:
            trained.setdefault(model.config, []).append(model.name)
    configs = [config_entry(name, file, trained) for name, file in config_files().items()]
    return {
        "models.md": (
            "# Models\n\nNames for `--model`, `Segmenter.from_pretrained` and `hipie models "
            "download`. Weights that are not in the package are downloaded at the first use and "
            "checked.\n\n" + "\n".join(entry(model) for model in models)
        ),
        "configs.md": (
            "# Configurations\n\nNames for `--config-file`, `Segmenter.from_config` and "
            "`model_zoo.get`. A configuration changes those of its `_BASE_` and the "
            "[defaults](config/hipie.md).\n\n" + "\n".join(configs)
        ),
    }
