"""The reference has every key, command, data set, model, configuration and public name."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from docs.site import commands, config_keys, data_sets, models, modules
from hipie import add_hipie_config, model_zoo
from hipie.cli.data import COMMANDS as DATA_COMMANDS
from hipie.cli.main import COMMANDS
from hipie.model_zoo.model_card import read_figures
from hipie.registration import register_all

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def keys():
    return {key.name: key for key in config_keys.all_keys()}


@pytest.fixture(scope="module")
def command_page():
    return commands.pages()["commands.md"]


def flattened(node: dict, prefix: str = "") -> dict:
    """Values of a nested dict by their dotted names."""
    result = {}
    for name, value in node.items():
        if isinstance(value, dict):
            result |= flattened(value, f"{prefix}{name}.")
        else:
            result[f"{prefix}{name}"] = value
    return result


def plain(value: object) -> object:
    """The value with lists in place of tuples."""
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_every_key_has_a_section_with_its_default(keys):
    cfg = get_cfg()
    add_hipie_config(cfg)
    dumped = flattened(yaml.unsafe_load(cfg.dump()))
    assert len(dumped) > 400
    assert set(keys) == set(dumped)
    text = "\n".join(config_keys.pages().values())
    headings = re.findall(
        r"^#### `([\w.]+)` \{ #([\w-]+) \}\n\nDefault: `(.*?)`(?:$|;)", text, re.M
    )
    assert sorted(name for name, _, _ in headings) == sorted(dumped)
    assert len({anchor for _, anchor, _ in headings}) == len(headings)
    for name, _, default in headings:
        assert plain(ast.literal_eval(default)) == plain(dumped[name]), name


def test_every_key_of_hipie_and_its_projects_has_a_meaning(keys):
    without = [
        name for name, key in keys.items() if key.package != "detectron2" and not key.meaning
    ]
    assert not without, without
    packages = {key.package for key in keys.values()}
    assert packages == {
        "hipie",
        "detectron2",
        *(path.parent.name for path in ROOT.glob("projects/*/*/config.py")),
    }


def test_keys_of_detectron2_with_another_default_are_marked(keys):
    own = flattened(yaml.unsafe_load(get_cfg().dump()))
    changed = {name for name, value in own.items() if plain(keys[name].default) != plain(value)}
    assert {"INPUT.FORMAT", "SOLVER.BASE_LR", "MODEL.MASK_ON"} <= changed
    for name in changed:
        assert plain(keys[name].former) == plain(own[name]), name
        assert f"Detectron2's own: `{keys[name].former!r}`" in config_keys.entry(keys[name])


def test_the_meaning_is_the_comment_above_the_assignment(tmp_path):
    file = tmp_path / "keys.py"
    file.write_text(
        "# The first\n# of them ...\na = 1\n# ... and the second, ...\nb = 2\n"
        "# ... and the third.\nc = 3\nd = 4\n"
    )
    comments = {
        name: config_keys.comment_above(str(file), n) for name, n in zip("abcd", (3, 5, 7, 8))
    }
    assert comments == {
        "a": "The first of them.",
        "b": "The first of them and the second.",
        "c": "The first of them and the second, and the third.",
        "d": "",
    }


def printed_help(module: str) -> str:
    """What a command prints for --help."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as ended:
        import_module(module).main(["--help"])
    assert ended.value.code == 0
    return text.getvalue()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "data"])
def test_every_argument_of_a_command_is_in_its_section(name, command_page):
    section = re.split(r"^## ", command_page.split(f"\n## hipie {name} {{")[1], flags=re.M)[0]
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", printed_help(COMMANDS[name][0])))
    flags -= {"--help"}
    missing = {flag for flag in flags if not re.search(rf"{flag}(?![\w-])", section)}
    assert not missing, missing


@pytest.mark.parametrize("name", DATA_COMMANDS)
def test_every_argument_of_a_data_command_is_in_its_section(name, command_page):
    section = command_page.split(f"\n### hipie data {name} {{")[1].split("\n## ")[0]
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", printed_help(DATA_COMMANDS[name])))
    missing = {f for f in flags - {"--help"} if not re.search(rf"{f}(?![\w-])", section)}
    assert not missing, missing


def test_every_argument_has_a_description():
    for page, text in commands.pages().items():
        undescribed = re.findall(r"`(.+)`\n:   \(no description\)", text)
        assert not undescribed, f"{page}: {undescribed}"


def test_programs_that_prepare_data_sets_have_a_section():
    text = commands.pages()["preparation.md"]
    programs = sorted(path.name for path in ROOT.glob("datasets/prepare_*.py"))
    assert len(programs) > 10
    assert re.findall(r"^## python datasets/(\S+) ", text, re.M) == programs


def test_a_program_that_reads_no_command_line_is_an_error():
    with pytest.raises(RuntimeError, match="nothing.py reads no command line"):
        commands.parser_of(lambda arguments: 0, "nothing.py")


def test_every_registered_data_set_is_listed():
    register_all()
    text = "\n".join(data_sets.pages().values())
    listed = re.findall(r"^\| `([^`]+)` \|", text, re.M)
    # Other tests may have registered sets of their own since.
    assert set(DatasetCatalog.list()) <= set(listed)
    assert len(listed) == len(set(listed)) > 1000
    row = next(line for line in text.splitlines() if line.startswith("| `ade20k_panoptic_val` |"))
    assert "100 things, 50 stuff" in row and "`coco_panoptic_seg`" in row


def test_every_model_has_a_section_and_packaged_ones_their_card():
    text = models.pages()["models.md"]
    sections = dict(re.findall(r"^## (\S+) \{ #\1 \}\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert list(sections) == list(model_zoo.MODELS)
    for name, model in model_zoo.MODELS.items():
        assert model.licence in sections[name] and model.task in sections[name]
        if model.is_packaged:
            weights = model_zoo.get_weights(model.config)
            assert "Limits" in sections[name], name
            for figure in read_figures(weights):
                assert f"| {figure.value} |" in sections[name], (name, figure)


def test_every_configuration_is_shown_as_it_is():
    text = models.pages()["configs.md"]
    blocks = dict(re.findall(r"^## (\S+) \{.*?^```yaml\n(.*?)\n```", text, re.M | re.S))
    assert set(model_zoo.names()) <= set(blocks)
    for name in model_zoo.names():
        written = model_zoo.get_config_file(name).read_text(encoding="utf-8")
        assert blocks[name] == written.strip(), name
    bases = [path.name for path in ROOT.glob("configs/**/Base-*.yaml")]
    assert len(bases) > 3 and all(any(n.endswith(base) for n in blocks) for base in bases)


def test_every_module_is_on_the_page_of_its_package():
    pages = modules.pages()
    files = [*ROOT.glob("hipie/**/*.py"), *ROOT.glob("projects/*/*/**/*.py")]
    documented = set(re.findall(r"^::: (\S+)$", "\n".join(pages.values()), re.M))
    expected = set()
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        parts = parts[2:] if parts[0] == "projects" else parts
        if parts[-1] != "__main__":
            expected.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    assert len(expected) > 400
    assert documented == expected


def defined_names(module: str) -> set[str]:
    """Names of classes and functions that the file of a module defines, methods as `A.b`."""
    file = Path(import_module(module).__file__)
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
    return names


def test_every_public_name_leads_to_its_definition():
    pages = modules.pages()
    text = pages["public.md"]
    exported = [(p, n) for p in modules.PUBLIC for n in import_module(p).__all__]
    assert len(exported) > 40
    links = dict(re.findall(r"^\| \[`([\w.]+)`\]\[([\w.]+)\]", text, re.M))
    for package, name in exported:
        section = text.split(f"\n## {package}\n")[1].split("\n## ")[0]
        assert re.search(rf"^\| \[?`{re.escape(name)}`", section, re.M), f"{package}.{name}"
        value = getattr(import_module(package), name)
        if callable(value) and getattr(value, "__module__", "").startswith("hipie"):
            module, _, defined = links[name].rpartition(".")
            assert defined in defined_names(module), links[name]
            assert f"::: {module}\n" in pages[modules.page_of(module)]


def test_every_registered_name_is_listed():
    register_all()
    text = modules.public_page()
    for registry, module in modules.REGISTRIES.items():
        section = text.split(f"\n### {registry}\n")[1].split("\n### ")[0]
        names = [name for name, _ in modules.entries(getattr(import_module(module), registry))]
        assert names
        for name in names:
            assert re.search(rf"^\| \[?`{re.escape(name)}`", section, re.M), f"{registry}: {name}"


def test_every_registry_of_hipie_is_listed():
    """Found in the source: assignments of a `Registry` or of a class derived from it."""
    found = set()
    for file in (ROOT / "hipie").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(r"^([A-Z_]+_REGISTRY)\b.*=", text, re.M))
    assert len(found) >= 8
    assert found <= set(modules.REGISTRIES), found - set(modules.REGISTRIES)
