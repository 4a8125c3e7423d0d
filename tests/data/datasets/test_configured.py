"""Data sets that a configuration describes in one line each, from files to losses and scores."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from hipie import add_hipie_config, model_zoo
from hipie.cli import data_check, data_show
from hipie.config.loading import merge
from hipie.data.build import build_test_loader, build_train_loader
from hipie.data.check import check_records
from hipie.data.datasets import DatasetError, register_all, register_parts, register_semantic
from hipie.evaluation import build_evaluator
from hipie.modeling.meta_arch.inputs import vocabulary_of
from hipie.structures import SemanticLabels

HEIGHT, WIDTH, COUNT = 48, 64, 3
IGNORED = 255
TINY = Path(__file__).parents[2] / "tiny.yaml"
NAMES = {"SEMANTIC": "tiny_scenes", "PARTS": "tiny_faces", "COCO_PANOPTIC": "tiny_panoptic"}
# What every class name of a set has, or one that is in every image of it.
WORDS = {"SEMANTIC": "grass", "PARTS": "person", "COCO_PANOPTIC": "ball"}


def label_map(rng: np.random.Generator, values: list[int]) -> np.ndarray:
    """Blocks of 8x8 pixels."""
    blocks = rng.choice(values, (HEIGHT // 8, WIDTH // 8))
    return np.kron(blocks, np.ones((8, 8), np.int64)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, label maps of three classes and a background, and their panoptic form."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    for name in ("images", "maps", "panoptic"):
        (root / name).mkdir()
    (root / "classes.txt").write_text("sky\nbackground\ngrass\nwater\n")
    (root / "parts.txt").write_text("background\nhair\nskin\nnose\n")
    images, annotations = [], []
    for number in range(COUNT):
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/{number}.jpg")
        labels = label_map(rng, [0, 1, 2, 3, IGNORED])
        Image.fromarray(labels).save(root / f"maps/{number}.png")
        panoptic = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        segments = []
        for value, category in ((0, 40), (2, 7), (3, 9)):
            panoptic[labels == value, 0] = value + 1
            if (labels == value).any():
                segments.append({"id": value + 1, "category_id": category})
        Image.fromarray(panoptic).save(root / f"panoptic/{number}.png")
        entry = {"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH}
        images.append(entry)
        annotations.append(
            {"image_id": number, "file_name": f"{number}.png", "segments_info": segments}
        )
    categories = [
        {"id": 40, "name": "sky", "isthing": 0},
        {"id": 7, "name": "ball", "isthing": 1},
        {"id": 9, "name": "water", "isthing": 0},
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "panoptic.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def entries(folder: Path) -> dict[str, list]:
    images, maps = str(folder / "images"), str(folder / "maps")
    classes, parts = str(folder / "classes.txt"), str(folder / "parts.txt")
    json_file, panoptic = str(folder / "panoptic.json"), str(folder / "panoptic")
    return {
        "SEMANTIC": [NAMES["SEMANTIC"], images, maps, classes, IGNORED],
        "PARTS": [NAMES["PARTS"], images, maps, parts, IGNORED, "person"],
        "COCO_PANOPTIC": [NAMES["COCO_PANOPTIC"], json_file, panoptic, images],
    }


@pytest.fixture(scope="module")
def cfg(entries: dict[str, list]) -> CN:
    """The tiny model on all of them, registered."""
    names = str(tuple(NAMES.values()))
    options = [value for key, entry in entries.items() for value in (f"DATASETS.{key}", [entry])]
    cfg = model_zoo.get_config(
        str(TINY),
        [
            *options,
            *("DATASETS.TRAIN", names, "DATASETS.TEST", names),
            *("DATALOADER.DATASET_BATCH_SIZE", "()", "INPUT.MIN_PART_AREA", "16"),
        ],
    )
    register_all(cfg)
    yield cfg
    for name in NAMES.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_model_takes_a_step_on_each_of_them(cfg: CN) -> None:
    model = build_model(cfg).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    tasks = {}
    for batch in build_train_loader(cfg):
        names = {name for item in batch for name in item["vocabulary"].names}
        assert "background" not in names
        (key,) = {key for key, word in WORDS.items() if any(word in name for name in names)}
        if key in tasks:
            continue
        assert all(len(item["instances"]) for item in batch)
        tasks[key] = {item["task"] for item in batch}
        before = [p.detach().clone() for p in model.parameters()]
        total = sum(model(batch).values())
        assert torch.isfinite(total)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert sum(changed) > 50
        if len(tasks) == 3:
            break
    assert tasks == {
        "SEMANTIC": {"semantic"},
        "PARTS": {"parts"},
        "COCO_PANOPTIC": {"detection"},
    }


def independent_ious(
    folder: Path, predicted: list[np.ndarray], lines: int
) -> tuple[dict[int, float], float]:
    """IoU of every line of the file of class names that is in the maps, and their mean."""
    truth = np.stack([np.array(Image.open(folder / f"maps/{i}.png")) for i in range(COUNT)])
    lines_of = np.stack(predicted)
    counted = truth != IGNORED
    ious = {
        value: (counted & (truth == value) & (lines_of == value)).sum()
        / (counted & ((truth == value) | (lines_of == value))).sum()
        for value in range(lines)
    }
    return ious, 100 * float(np.mean(list(ious.values())))


@pytest.mark.parametrize(
    ("key", "task", "line_of_class", "background", "named"),
    [
        ("SEMANTIC", "sem_seg", [0, 2, 3], 1, ["sky", "grass", "water"]),
        ("PARTS", "parts", [1, 2, 3], 0, ["person hair", "person skin", "person nose"]),
    ],
)
def test_what_no_class_claims_counts_as_background(
    cfg: CN,
    folder: Path,
    key: str,
    task: str,
    line_of_class: list[int],
    background: int,
    named: list[str],
) -> None:
    rng = np.random.default_rng(1)
    evaluator = build_evaluator(cfg, NAMES[key])
    evaluator.reset()
    predicted = []
    threshold = cfg.MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD
    for batch in build_test_loader(cfg, NAMES[key]):
        (item,) = batch
        assert list(item["vocabulary"].names) == named
        assert item["background"] is True
        classes = rng.integers(0, 3, (HEIGHT, WIDTH))
        scores = rng.random((HEIGHT, WIDTH)).astype(np.float32)
        labels = torch.from_numpy(classes), torch.from_numpy(scores), torch.from_numpy(scores)
        evaluator.process(batch, [{"sem_seg_labels": SemanticLabels(*labels)}])
        lines = np.where(scores < threshold, background, np.array(line_of_class)[classes])
        predicted.append(lines)
    scores = evaluator.evaluate()[task]
    ious, mean = independent_ious(folder, predicted, 4)
    assert scores["mIoU"] == pytest.approx(mean)
    assert scores["IoU-background"] == pytest.approx(100 * ious[background])
    for name, line in zip(named, line_of_class, strict=True):
        assert scores[f"IoU-{name}"] == pytest.approx(100 * ious[line])


def test_semantic_scores_of_a_panoptic_set_come_from_its_maps(cfg: CN, folder: Path) -> None:
    rng = np.random.default_rng(2)
    cfg = cfg.clone()
    cfg.MODEL.HIPIE.TEST.INSTANCE_ON = cfg.MODEL.HIPIE.TEST.PANOPTIC_ON = False
    evaluator = build_evaluator(cfg, NAMES["COCO_PANOPTIC"])
    evaluator.reset()
    truth, predicted = [], []
    # Classes in the order of the category ids: ball (7), water (9), sky (40).
    table = np.array([2, -1, 0, 1])
    for number, batch in enumerate(build_test_loader(cfg, NAMES["COCO_PANOPTIC"])):
        assert batch[0]["vocabulary"].names == ("ball", "water", "sky")
        assert batch[0]["vocabulary"].kinds == ("thing", "stuff", "stuff")
        classes = rng.integers(0, 3, (HEIGHT, WIDTH))
        evaluator.process(
            batch, [{"sem_seg": torch.from_numpy(np.eye(3)[classes]).permute(2, 0, 1)}]
        )
        labels = np.array(Image.open(folder / f"maps/{number}.png")).astype(int)
        truth.append(np.where(labels == IGNORED, -1, table[labels % 4]))
        predicted.append(classes)
    truth, predicted = np.stack(truth), np.stack(predicted)
    annotated = truth >= 0
    ious = [
        (annotated & (truth == k) & (predicted == k)).sum()
        / (annotated & ((truth == k) | (predicted == k))).sum()
        for k in range(3)
    ]
    scores = evaluator.evaluate()["sem_seg"]
    assert scores["mIoU"] == pytest.approx(100 * np.mean(ious))
    assert scores["IoU-water"] == pytest.approx(100 * ious[1])


def test_a_background_of_another_name_or_none(folder: Path) -> None:
    arguments = (str(folder / "images"), str(folder / "maps"), str(folder / "classes.txt"))
    classes = ("sky", "background", "grass", "water")
    for background, background_class in (("WATER", "water"), ("", None)):
        register_semantic("tiny_other", *arguments, background=background)
        assert MetadataCatalog.get("tiny_other").background_class == background_class
        named = vocabulary_of({}, "tiny_other").names
        assert named == tuple(name for name in classes if name != background_class)
    DatasetCatalog.remove("tiny_other")
    MetadataCatalog.remove("tiny_other")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no class name"),
        ("sky\n\ngrass\n", "line 2 is empty"),
        ("sky\ngrass\nSky\n", '"Sky" is in line 1 and in line 3'),
        ("background\n", '"background" is the only class'),
    ],
)
def test_files_of_class_names_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        register_semantic("tiny_none", str(tmp_path), str(tmp_path), str(tmp_path / "names.txt"))


@pytest.mark.parametrize("register", [register_semantic, register_parts])
def test_the_check_leaves_out_the_background_and_finds_values_without_a_name(
    folder: Path, tmp_path: Path, register: Callable[..., None]
) -> None:
    (tmp_path / "two.txt").write_text("background\nsky\n")
    maps = str(folder / "maps")
    register("tiny_short", str(folder / "images"), maps, str(tmp_path / "two.txt"))
    report = check_records(DatasetCatalog.get("tiny_short"), MetadataCatalog.get("tiny_short"))
    assert "background" not in report.objects
    assert len(report.invalid) == COUNT
    expected = r"0\.png: .*class index [23], but the data set has 2 classes"
    assert re.search(expected, report.invalid[0])
    DatasetCatalog.remove("tiny_short")
    MetadataCatalog.remove("tiny_short")


def bare() -> CN:
    cfg = get_cfg()
    add_hipie_config(cfg)
    return cfg


def test_paths_are_relative_to_the_file_that_has_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    entry = '["a", "images", "maps", "classes.txt", 255]'
    (folder / "base.yaml").write_text(f"DATASETS:\n  SEMANTIC: [{entry}]\n")
    child = tmp_path / "elsewhere/child.yaml"
    child.write_text(
        f'_BASE_: "{folder}/base.yaml"\nDATASETS:\n  PARTS: [["b", "no", "x", "y", 0, "z"]]\n'
    )
    monkeypatch.chdir(tmp_path)
    cfg = bare()
    merge(cfg, child)
    values = ["a", *(str(folder / name) for name in ("images", "maps", "classes.txt")), 255]
    assert [values] == cfg.DATASETS.SEMANTIC
    assert cfg.DATASETS.PARTS == [["b", "no", "x", "y", 0, "z"]]


@pytest.mark.parametrize(
    ("key", "entry", "message"),
    [
        ("SEMANTIC", "abc", r"DATASETS.SEMANTIC has 'abc': it takes \[name, folder of the images"),
        ("PARTS", ["a", "b", "c", "d", 255], r"DATASETS.PARTS has \['a'.*name of the whole"),
        ("COCO_PANOPTIC", ["a", "b", "c", 3], r"DATASETS.COCO_PANOPTIC has \['a'"),
        (
            "SEMANTIC",
            ["a", "b", "c", "d", {"back": "x"}],
            'DATASETS.SEMANTIC, "a": there is no option "back"; there are background',
        ),
    ],
)
def test_an_entry_of_another_form_is_named(key: str, entry: object, message: str) -> None:
    cfg = bare()
    cfg.DATASETS[key] = [entry]
    with pytest.raises(ValueError, match=message):
        register_all(cfg)


def test_instances_of_parts_have_the_name_of_their_whole(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "1.png")
    box = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 4, 3]}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 6, "width": 8}],
        "annotations": [box],
        "categories": [{"id": 7, "name": "wheel"}, {"id": 8, "name": "dog:tail"}],
    }
    (tmp_path / "parts.json").write_text(json.dumps(content))
    cfg = bare()
    entry = ["tiny_parts", str(tmp_path / "parts.json"), str(tmp_path), {"whole": "car"}]
    cfg.DATASETS.COCO_FORMAT = [entry]
    register_all(cfg)
    meta = MetadataCatalog.get("tiny_parts")
    assert meta.vocabulary.names == ("car wheel", "dog tail")
    assert meta.vocabulary.kinds == ("thing", "thing")
    assert meta.part_wholes == {"car wheel": "car", "dog tail": "dog"}
    DatasetCatalog.remove("tiny_parts")
    MetadataCatalog.remove("tiny_parts")


def test_a_base_may_be_a_name_of_the_model_zoo(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "zoo.yaml").write_text(
        '_BASE_: "nano/Base-nano.yaml"\nSOLVER:\n  BASE_LR: 0.5\n'
        'DATASETS:\n  SEMANTIC: [["a", "images", "maps", "classes.txt", 255]]\n'
    )
    (folder / "child.yaml").write_text('_BASE_: "zoo.yaml"\nSOLVER:\n  MAX_ITER: 7\n')
    monkeypatch.chdir(tmp_path)
    cfg = model_zoo.get_config(str(folder / "child.yaml"))
    nano = model_zoo.get_config("nano/hipie_nano_picturebook.yaml")
    assert cfg.MODEL.HIPIE.HIDDEN_DIM == nano.MODEL.HIPIE.HIDDEN_DIM
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 7)
    assert cfg.DATASETS.SEMANTIC[0][1] == str(folder / "images")
    (folder / "zoo.yaml").write_text('_BASE_: "hipie_nano_picturbook"\n')
    with pytest.raises(ValueError, match="hipie_nano_picturebook"):
        model_zoo.get_config(str(folder / "child.yaml"))


FILES = {
    "COCO_FORMAT": {
        "images": [{"id": 1, "file_name": "0.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 1, 4, 3]}],
        "categories": [{"id": 7, "name": "ball"}],
    },
    "REFERRING": [{"image": "0.jpg", "sentences": ["the ball"]}],
    "GROUPS": {"balls": {"val": [{"image": "0.jpg", "mask": "0.png"}]}},
}


@pytest.mark.parametrize("given", ["COCO_FORMAT", "COCO_PANOPTIC", "REFERRING", "GROUPS"])
@pytest.mark.parametrize("key", ["COCO_FORMAT", "COCO_PANOPTIC", "REFERRING", "GROUPS"])
def test_a_file_of_another_kind_is_recognised(
    folder: Path, tmp_path: Path, key: str, given: str
) -> None:
    path = str(tmp_path / "file.json")
    if given == "COCO_PANOPTIC":
        path = str(folder / "panoptic.json")
    else:
        (tmp_path / "file.json").write_text(json.dumps(FILES[given]))
    images = str(folder / "images")
    cfg = bare()
    cfg.DATASETS[key] = {
        "COCO_FORMAT": [["tiny_kind", path, images]],
        "COCO_PANOPTIC": [["tiny_kind", path, str(folder / "panoptic"), images]],
        "REFERRING": [["tiny_kind", path, "", images]],
        "GROUPS": [["tiny_kind", path, "val", images]],
    }[key]
    if key == given:
        register_all(cfg)
        DatasetCatalog.remove("tiny_kind")
        MetadataCatalog.remove("tiny_kind")
        return
    with pytest.raises(
        DatasetError, match=rf"\.json: this is not .*, which DATASETS\.{given} takes"
    ):
        register_all(cfg)


def test_the_commands_take_all_kinds_and_registered_sets(
    cfg: CN, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    lines = [f"  {key}: [{json.dumps(cfg.DATASETS[key][0])}]" for key in NAMES]
    own = tmp_path / "config.yaml"
    own.write_text("DATASETS:\n" + "\n".join(lines).replace(str(folder) + "/", "") + "\n")
    for path in ("images", "maps", "panoptic", "classes.txt", "parts.txt", "panoptic.json"):
        (tmp_path / path).symlink_to(folder / path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in NAMES.values():
        arguments = [name, "--config-file", str(own)]
        capsys.readouterr()
        data_check.main(["--json", *arguments])
        report = json.loads(capsys.readouterr().out)
        assert report["images"] == COUNT and report["objects"] > 0
        assert report["trainable"] and report["evaluable"], report["errors"]
        assert data_show.main([*arguments, "--output", str(tmp_path / "sheets")]) == 0
        assert (tmp_path / f"sheets/{name}_0.png").is_file()
    (tmp_path / "my_sets.py").write_text(
        "from hipie.data.datasets import register_semantic\n"
        f"register_semantic('tiny_imported', {str(folder / 'images')!r}, "
        f"{str(folder / 'maps')!r}, {str(folder / 'classes.txt')!r})\n"
    )
    capsys.readouterr()
    arguments = ["tiny_imported", "--import", str(tmp_path / "my_sets.py")]
    assert data_check.main(["--json", *arguments]) == 0
    assert set(json.loads(capsys.readouterr().out)["objects_by_class"]) == {"sky", "grass", "water"}
    assert data_show.main([*arguments, "--output", str(tmp_path / "sheets")]) == 0
    DatasetCatalog.remove("tiny_imported")
    MetadataCatalog.remove("tiny_imported")


def test_refs_that_do_not_exist_yet_are_an_error_when_they_are_used(tmp_path: Path) -> None:
    cfg = get_cfg()
    add_hipie_config(cfg)
    cfg.DATASETS.REFERRING = [["made_later", str(tmp_path / "refs.json"), "", str(tmp_path)]]
    register_all(cfg)
    assert MetadataCatalog.get("made_later").evaluator_type == "grefer"
    with pytest.raises(FileNotFoundError, match='the refs of the data set "made_later"'):
        DatasetCatalog.get("made_later")
