"""Fine-tuning in one command: kinds of data, the schedule, files of a run, and bad input."""

from __future__ import annotations

import json
import re
import shlex
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie import Segmenter, model_zoo
from hipie.cli import finetune, train
from hipie.cli.main import main
from hipie.config.dataset_entries import ENTRY_FORMS
from hipie.config.loading import check, keys
from hipie.config.reading import read_with_bases
from hipie.data.dataset_specification import (
    FORMS,
    DatasetSpecification,
    forms_text,
    parse_dataset,
)
from hipie.engine.finetuning import fit_schedule
from hipie.errors import InputError, UsageError
from tests.cli.annotated_sets import write_sets

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/your_own_data.md"
TINY = ROOT / "tests/tiny.yaml"
SHIPPED = sorted(
    [*ROOT.glob("configs/finetune/*.yaml"), *ROOT.glob("projects/*/configs/finetune/*.yaml")]
)
DATA = {
    "COCO_FORMAT": "shelf=shelf/train.json:shelf/images",
    "COCO_PANOPTIC": "kitchen=kitchen/train.json:kitchen/maps:kitchen/images",
    "SEMANTIC": "street=street/images/train:street/maps/train:street/classes.txt",
    "PARTS": "face=face/images:face/maps:face/classes.txt:whole=face",
    "REFERRING": "table=table/refs.json:table",
    "GROUPS": "cups=cups/groups.json:cups",
}


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """The working folder, with a data set of each kind."""
    monkeypatch.chdir(tmp_path)
    write_sets(tmp_path)
    before = set(DatasetCatalog)
    yield tmp_path
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture(scope="module")
def tiny_model(tiny_text, tmp_path_factory) -> Path:
    """The folder of a model with random weights."""
    torch.manual_seed(0)
    options = ["MODEL.HIPIE.TEXT.SOURCE", str(tiny_text), "MODEL.HIPIE.HIDDEN_DIM", 64]
    cfg = model_zoo.get_config(str(TINY), options)
    from detectron2.modeling import build_model

    return model_zoo.save_model(build_model(cfg), cfg, tmp_path_factory.mktemp("model"))


def config_of(*arguments: str):
    args = train.parse_arguments(list(arguments))
    return finetune.read_finetuning(args)


@pytest.mark.parametrize("key", DATA)
def test_the_kind_of_a_set_is_recognised(sets, key):
    one = parse_dataset(DATA[key], "train")
    assert one.key == key
    assert all(
        Path(one.entry[position]).is_absolute()
        for position in ENTRY_FORMS[key].paths
        if one.entry[position]
    )
    if key == "GROUPS":
        assert one.entry[2] == "train"
        assert parse_dataset(DATA[key] + ":split=val", "train").entry[2] == "val"


def test_options_and_paths_with_colons(sets):
    (sets / "my: set").mkdir()
    (sets / "shelf").rename(sets / "my: set/shelf")
    one = parse_dataset(
        "my shelf=my: set/shelf/train.json:my: set/shelf/images:whole=rack", "train"
    )
    assert one.name == "my shelf"
    assert one.entry[1:] == (
        str(sets / "my: set/shelf/train.json"),
        str(sets / "my: set/shelf/images"),
        {"whole": "rack"},
    )
    one = parse_dataset(DATA["SEMANTIC"] + ":ignore=0:background=", "train")
    assert one.entry[4:] == (0, {"background": ""})
    with pytest.raises(InputError, match=r"no file or folder C:\\shelf\\train.json"):
        parse_dataset(r"shelf=C:\shelf\train.json:C:\shelf\images", "train")


def test_a_set_without_an_equals_sign_is_a_registered_one():
    one = parse_dataset("picturebook_val_refer", "val")
    assert one == DatasetSpecification("picturebook_val_refer")


def test_the_help_has_a_line_for_each_kind(capsys):
    assert len(forms_text().splitlines()) == len(FORMS) == len(ENTRY_FORMS)
    with pytest.raises(SystemExit):
        train.parse_arguments(["--help"])
    shown = capsys.readouterr().out
    assert all(form in shown for _, form in FORMS.values())


@pytest.mark.parametrize("images", [1, 25, 400, 6400, 118_287])
def test_small_sets_are_repeated_more_often(images):
    schedule = fit_schedule(images, 4)
    drawn = schedule.batch * schedule.iterations
    # Rounding adds at most four iterations of each of the five parts.
    assert 400 * images**0.5 <= drawn <= 400 * images**0.5 + 6 * schedule.batch
    assert schedule.iterations == 5 * schedule.period
    assert schedule.warmup <= max(0.05 * schedule.iterations, 10)
    assert schedule.batch <= images
    assert fit_schedule(images, 4, iterations=2).iterations == 2


def test_the_schedule_fits_the_set_and_the_command_line_overrides_it(sets, tiny_model):
    cfg, _ = config_of(
        "--data", DATA["COCO_FORMAT"], "--val", DATA["COCO_FORMAT"], "--model", str(tiny_model)
    )
    assert fit_schedule(4, 4).iterations == cfg.SOLVER.MAX_ITER
    assert cfg.TEST.BEST_CHECKPOINT_METRIC == "shelf/segm/AP"
    assert str(sets / "output/shelf") == cfg.OUTPUT_DIR
    assert str(tiny_model / "model.safetensors") == cfg.MODEL.WEIGHTS
    cfg, _ = config_of(
        "--data",
        DATA["COCO_FORMAT"],
        "--model",
        str(tiny_model),
        "SOLVER.MAX_ITER",
        "50",
        "OUTPUT_DIR",
        "here",
    )
    assert (cfg.SOLVER.MAX_ITER, cfg.TEST.EVAL_PERIOD) == (50, 0)
    assert cfg.SOLVER.WARMUP_ITERS <= 25 and str(sets / "here") == cfg.OUTPUT_DIR


def test_the_file_repeats_the_configuration_from_any_folder(sets, tiny_model, monkeypatch):
    arguments = [part for text in list(DATA.values())[:5] for part in ("--data", text)]
    cfg, text = config_of(*arguments, "--model", str(tiny_model), "SOLVER.BASE_LR", "0.5")
    file = finetune.write_finetuning(cfg, text)
    (sets / "elsewhere").mkdir()
    monkeypatch.chdir(sets / "elsewhere")
    read = model_zoo.get_config(file)
    for key in keys(cfg):
        written, again = (reduce(getattr, key.split("."), node) for node in (cfg, read))
        assert _lists(written) == _lists(again), key


def _lists(value):
    return [_lists(entry) for entry in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_files_have_the_form_of_those_that_are_written(sets, file):
    """The same keys, and values of the same types."""
    key = {name: key for key, name in zip(DATA, NAMES, strict=True)}[file.stem]
    model = "grser-nano-picturebook" if key == "GROUPS" else "hipie-nano-photos"
    _, text = config_of(
        *("--data", DATA[key], "--val", DATA[key].replace("=", "_val=", 1), "--model", model)
    )
    written, shipped = yaml.safe_load(text), yaml.safe_load(file.read_text())
    assert _key_names(written) == _key_names(shipped)
    check(model_zoo.get_config(str(file)))
    assert read_with_bases(str(file), model_zoo.get_base_file)["MODEL"]["META_ARCHITECTURE"]


NAMES = ("instances", "panoptic", "semantic", "parts", "referring", "groups")


def test_there_is_a_shipped_file_for_each_kind():
    assert {file.stem for file in SHIPPED} == set(NAMES)


def _key_names(tree: dict, start: str = "") -> set[str]:
    names = set()
    for key, value in tree.items():
        names |= _key_names(value, f"{start}{key}.") if isinstance(value, dict) else {start + key}
    return names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--val", DATA["COCO_FORMAT"]], "--val needs --data"),
        (["--data", "shelf"], 'no registered data set "shelf"'),
        (["--data", "shelf="], '"shelf=" has no files'),
        (["--data", "a/b=shelf/train.json:shelf/images"], "no name of a data set"),
        (["--data", "shelf=shelf/trian.json:shelf/images"], "no file or folder shelf/trian.json"),
        (["--data", "shelf=shelf/train.json"], "written NAME=instances.json:images"),
        (["--data", "k=kitchen/train.json:kitchen/images"], "written NAME=panoptic.json:maps:im"),
        (["--data", "s=shelf/images:shelf/train.json"], "written NAME=images:maps:classes.txt"),
        (["--data", DATA["SEMANTIC"] + ":ignore=none"], "ignore has to be a whole number"),
        (["--data", DATA["COCO_FORMAT"] + ":split=val"], 'have no option "split"'),
        (["--data", "other=other.json:shelf/images"], "is a JSON file of another kind"),
        (
            [
                "--data",
                DATA["COCO_FORMAT"],
                "--val",
                "street=" + DATA["SEMANTIC"].partition("=")[2],
            ],
            'no class in common with shelf: "road", "car" and "bottle", "box"',
        ),
        (
            ["--data", DATA["COCO_FORMAT"], "--val", "shelf=" + DATA["SEMANTIC"].partition("=")[2]],
            'two different data sets have the name "shelf"',
        ),
        (
            ["--data", DATA["COCO_FORMAT"], "--model", "grser-nano-picturebook"],
            "is for the task universal, which GRSer does not have",
        ),
    ],
)
def test_input_that_cannot_be_used_is_one_sentence(sets, arguments, message):
    (sets / "other.json").write_text('{"licence": []}')
    with pytest.raises((InputError, UsageError)) as raised:
        config_of(*arguments)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_missing_images_are_named_before_anything_is_written(sets):
    (sets / "shelf/images/2.jpg").unlink()
    with pytest.raises(Exception, match=r"2\.jpg") as raised:
        config_of("--data", DATA["COCO_FORMAT"])
    assert "\n" not in str(raised.value)
    assert not (sets / "output").exists()


def commands_of_the_page() -> list[list[str]]:
    """The commands of the section that goes from files to a drawn result."""
    section = PAGE.read_text(encoding="utf-8")
    section = section[section.index("## From files") : section.index("## Kinds of annotation")]
    lines = re.findall(r"^    (hipie .+)$", section, re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.slow
def test_the_commands_of_the_page(sets, tiny_model, monkeypatch, restored_logging, capsys):
    """Each kind from its files to a drawn result, by two iterations of a tiny model."""
    monkeypatch.setattr(train, "launch", lambda run, arguments, **_: run(*arguments))
    monkeypatch.setattr(train, "keep_freed_memory", lambda: None)
    default = finetune._default_model

    def small_model(given):
        name = default(given)
        return name if name.startswith("grser") else str(tiny_model)

    monkeypatch.setattr(finetune, "_default_model", small_model)
    options = ["SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0", "TRACKING.WRITERS", "()"]
    commands = commands_of_the_page()
    assert [command[0] for command in commands].count("train") == len(FORMS)
    for command in commands:
        small = []
        if command[0] == "train":
            small = [*options, *(["INPUT.SQUARE_SIZE", "64"] if "cups=" in command[2] else [])]
        assert main([*command, *small]) == 0, command
        if command[0] in ("segment", "refer", "group"):
            kind = Path(command[command.index("--weights") + 1]).name
            drawn = list((sets / "output/result").glob("*.png"))
            assert drawn, kind
            for file in (sets / "output/result").iterdir():
                file.rename(sets / f"{kind}_{file.name}")
    for name in ("shelf", "kitchen", "street", "face", "table", "cups"):
        folder = sets / "output" / name
        assert (folder / "model_best.pth").is_file(), name
        assert (folder / "finetune.yaml").is_file()
        scores = json.loads((folder / f"show/{name}_val_scores.json").read_text())
        values = [one["score"] for one in scores["images"]]
        assert values == sorted(values) and all(0 <= value <= 1 for value in values)
        assert Image.open(folder / f"show/{name}_val_0.png").size[0] > 200
        result = json.loads((folder / "results.json").read_text())
        assert list(result) == [f"{name}_val"]
    for name, labels in {
        "shelf": ["bottle", "box"],
        "kitchen": ["cup", "plate", "table"],
        "street": ["road", "car"],
        "face": ["face hair", "face eye"],
    }.items():
        segmenter = Segmenter.from_pretrained(sets / "output" / name)
        assert list(segmenter.vocabulary.names) == labels
        segmenter.segment(np.zeros((48, 64, 3), np.uint8))
    assert not (sets / "output/table/vocabulary.json").exists()
    for name in ("shelf", "street", "table", "cups"):
        assert (sets / f"output/look/{name}_augmented_0.png").is_file()
