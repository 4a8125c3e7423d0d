"""Label maps made from the files as distributed, read through the registered data sets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.data.datasets import register_public_datasets
from hipie.data.image_io import read_label_map
from tests import benchmark_trees as trees
from tests import programs
from tests.benchmark_trees import HEIGHT, WIDTH, halves, label_map, write_image
from tests.exit_status import exit_status
from tests.pascal_part_files import thing, write_annotation

HALF = WIDTH // 2


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty tree under which everything is registered."""
    register_public_datasets(tmp_path)
    yield tmp_path
    register_public_datasets()


def program(name: str) -> ModuleType:
    """A program of `datasets/`, which expects any number of images."""
    module = programs.program(name)
    module.PUBLISHED = {}
    return module


def run(module: ModuleType, root: Path, *words: str) -> int:
    return exit_status(module.main, ["--root", str(root), "--workers", "1", *words])


def times(root: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}


def labels_of(name: str, key: str = "sem_seg_file_name") -> np.ndarray:
    (record,) = DatasetCatalog.get(name)
    assert Path(record["file_name"]).is_file()
    return read_label_map(record[key])


def corners(labels: np.ndarray) -> list[int]:
    """The values at the left, at the right, and where there is no label."""
    return [int(labels[HEIGHT - 1, 0]), int(labels[HEIGHT - 1, -1]), int(labels[0, 0])]


def write_ade20k(root: Path) -> None:
    """Class 3 (sky) left, 8 (bed) right; a bed over both, and a person."""
    place = root / "ade/ADEChallengeData2016"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_image(place / f"images/{split}/{name}.jpg")
        label_map(place / f"annotations/{split}/{name}.png", halves(3, 8, 0))
        objects = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        objects[10:30, 20:50] = (1, 1, 0)
        objects[30:40, 50:60] = (4, 2, 0)
        label_map(place / f"annotations_instance/{split}/{name}.png", objects)


def test_ade20k(root, capsys):
    write_ade20k(root)
    module = program("ade20k")
    assert run(module, root) == 0
    assert corners(labels_of("ade20k_150_sem_seg_val")) == [2, 7, 255]
    (record,) = DatasetCatalog.get("ade20k_panoptic_val")
    names = MetadataCatalog.get("ade20k_panoptic_val").stuff_classes
    found = [
        (names[s["category_id"]].split(",")[0], s["area"], s["bbox"])
        for s in record["segments_info"]
    ]
    assert found == [
        ("sky", (HEIGHT - 4) * HALF, [0, 4, HALF, HEIGHT - 4]),
        ("bed", 20 * 30, [20, 10, 30, 20]),
        ("person", 100, [50, 30, 10, 10]),
    ]
    ids = read_label_map(record["pan_seg_file_name"])[..., 0]
    assert (ids[5, 5], ids[20, 25], ids[20, 40], ids[35, 55], ids[45, 60]) == (1, 2, 2, 3, 0)
    (record,) = DatasetCatalog.get("ade20k_instance_train")
    classes = MetadataCatalog.get("ade20k_instance_train").thing_classes
    assert [classes[a["category_id"]].split(",")[0] for a in record["annotations"]] == [
        "bed",
        "person",
    ]
    mask = decode_mask(record["annotations"][0]["segmentation"], HEIGHT, WIDTH)
    assert mask.sum() == 600 and mask[10:30, 20:50].all()
    before = times(root)
    assert run(module, root) == 0
    assert times(root) == before
    printed = capsys.readouterr().out
    assert "ok       objects of val: 2 objects in 1 images" in printed
    assert "ok       classes of train: 1 label maps with 3 of 151 labels" in printed


def test_ade20k_objects_of_two_classes_are_refused(root, capsys):
    write_ade20k(root)
    path = root / "ade/ADEChallengeData2016/annotations_instance/training/ADE_train_00000001.png"
    objects = read_label_map(str(path))
    objects[10, 20, 0] = 2
    label_map(path, objects)
    assert run(program("ade20k"), root) == 1
    assert "object 1 has the classes [1, 2] instead of one" in capsys.readouterr().err
    assert not (root / "ade/ADEChallengeData2016/ade20k_instance_train.json").exists()


def test_ade20k_full(root):
    place = root / "ade/ADE20K_2021_17_01/images/ADE"
    for split, name in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        folder = place / split / "home" / "bedroom"
        write_image(folder / f"{name}.jpg")
        label_map(folder / f"{name}_seg.png", coded(halves(2978, 312, 0, np.int32)))
    wide = np.zeros((1030, 1500, 3), np.uint8)
    label_map(place / "training/home/bedroom/ADE_train_00000002.jpg", wide)
    numbers = np.full((1030, 1500), 2420, np.int32)
    label_map(place / "training/home/bedroom/ADE_train_00000002_seg.png", coded(numbers))
    assert run(program("ade20k_full"), root) == 0
    assert corners(labels_of("ade20k_full_sem_seg_val")) == [0, 1, 65535]
    _, second = DatasetCatalog.get("ade20k_full_sem_seg_train")
    assert (second["height"], second["width"]) == (512, round(1500 / 1030 * 512))
    assert np.unique(read_label_map(second["sem_seg_file_name"])).tolist() == [2]
    with Image.open(second["file_name"]) as image:
        assert image.size == (second["width"], 512)


def coded(numbers: np.ndarray) -> np.ndarray:
    """ADE20K's colours: red // 10 * 256 + green."""
    planes = [numbers // 256 * 10 + 3, numbers % 256, np.zeros_like(numbers)]
    return np.stack(planes, axis=2).astype(np.uint8)


def write_pascal(root: Path) -> None:
    devkit = root / "VOCdevkit"
    for folder, year, lists in (
        ("VOC2012", "2007", "Segmentation"),
        ("VOC2010", "2008", "Main"),
    ):
        place = devkit / folder
        for split in ("train", "val"):
            name = f"{year}_{split}"
            write_image(place / f"JPEGImages/{name}.jpg")
            (place / "ImageSets" / lists).mkdir(parents=True, exist_ok=True)
            (place / "ImageSets" / lists / f"{split}.txt").write_text(f"{name}\n")
    for split in ("train", "val"):
        path = devkit / f"VOC2012/SegmentationClass/2007_{split}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(halves(0, 15, 255), "P")
        image.putpalette([(i * 37) % 256 for i in range(768)])
        image.save(path)
        path = devkit / f"VOC2010/trainval/2008_{split}.mat"
        path.parent.mkdir(exist_ok=True)
        scipy.io.savemat(path, {"LabelMap": halves(2, 397, 0, np.uint16)})
    with (devkit / "VOC2010/ImageSets/Main/val.txt").open("a") as file:
        file.write("2008_without_context\n")


def test_pascal(root, capsys):
    write_pascal(root)
    module = program("pascal")
    assert run(module, root) == 0
    assert corners(labels_of("pascal21_sem_seg_val")) == [0, 15, 255]
    assert corners(labels_of("pascal20_sem_seg_val")) == [255, 14, 255]
    assert MetadataCatalog.get("pascal20_sem_seg_val").stuff_classes[14] == "person"
    wide, narrow = labels_of("ctx459_sem_seg_train"), labels_of("ctx59_sem_seg_train")
    assert corners(wide) == [1, 396, 65535]
    names = MetadataCatalog.get("ctx459_sem_seg_val").stuff_classes
    few = MetadataCatalog.get("ctx59_sem_seg_val").stuff_classes
    left, right, nothing = corners(narrow)
    assert (few[left], few[right], nothing) == ("aeroplane", "diningtable", 255)
    assert (names[1], names[396]) == ("aeroplane", "table")
    before = times(root)
    assert run(module, root) == 0 and times(root) == before
    assert run(module, root, "--check") == 0
    assert capsys.readouterr().out.count("ok  ") == 3 * 8


def write_sbd(root: Path) -> None:
    """A training image of VOC, one of its validation and two more; `inst` has no part in it."""
    for name in ("2007_train", "2007_val", "2008_a", "2011_b"):
        write_image(root / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg")
    dataset = root / "benchmark_RELEASE/dataset"
    (dataset / "cls").mkdir(parents=True)
    (dataset / "train.txt").write_text("2007_train\n2008_a\n")
    (dataset / "val.txt").write_text("2007_val\n2011_b\n")
    for name in ("2007_train", "2007_val", "2008_a", "2011_b"):
        boundaries = np.empty((20, 1), dtype=object)
        boundaries[:, 0] = [scipy.sparse.csc_matrix(np.eye(3, dtype=bool))] * 20
        truth = {
            "Boundaries": boundaries,
            "Segmentation": halves(20, 3, 0),
            "CategoriesPresent": np.array([[3], [20]], np.uint8),
        }
        scipy.io.savemat(dataset / f"cls/{name}.mat", {"GTcls": truth}, do_compression=True)


def augmented(root: Path) -> dict[str, list[int]]:
    return {
        record["image_id"]: corners(read_label_map(record["sem_seg_file_name"]))
        for record in DatasetCatalog.get("pascal21_sem_seg_trainaug")
    }


def test_pascal_with_sbd(root, capsys):
    write_pascal(root)
    write_sbd(root)
    module = program("pascal")
    assert run(module, root) == 0
    # VOC's own mask has ignored borders; images of its validation are not for training.
    own, other = [0, 15, 255], [20, 3, 0]
    assert augmented(root) == {"2007_train": own, "2008_a": other, "2011_b": other}
    records = DatasetCatalog.get("pascal20_sem_seg_trainaug")
    assert [corners(read_label_map(r["sem_seg_file_name"])) for r in records][1] == [19, 2, 255]
    assert all(Path(record["file_name"]).is_file() for record in records)
    assert "annotations_pascal21 training_aug: 3 label maps" in capsys.readouterr().out
    before = times(root)
    assert run(module, root) == 0 and times(root) == before
    path = root / "benchmark_RELEASE/dataset/cls/2011_b.mat"
    scipy.io.savemat(path, {"GTcls": {"CategoriesPresent": 3}})
    capsys.readouterr()
    assert run(module, root) == 1
    assert "2011_b.mat: this MATLAB file has no GTcls.Segmentation" in capsys.readouterr().err


def test_pascal_with_converted_masks_and_a_list(root, capsys):
    write_pascal(root)
    voc = root / "VOCdevkit/VOC2012"
    for name in ("2007_train", "2007_val", "2008_a", "2011_b"):
        write_image(voc / f"JPEGImages/{name}.jpg")
        label_map(voc / f"SegmentationClassAug/{name}.png", halves(20, 3, 0))
    path = voc / "ImageSets/Segmentation/train_aug.txt"
    path.write_text(
        "/JPEGImages/2007_train.jpg /SegmentationClassAug/2007_train.png\n"
        "/JPEGImages/2011_b.jpg /SegmentationClassAug/2011_b.png\n"
    )
    module = program("pascal")
    assert run(module, root) == 0
    assert augmented(root) == {"2007_train": [0, 15, 255], "2011_b": [20, 3, 0]}
    path.write_text("2007_train\n2007_val\n")
    capsys.readouterr()
    assert run(module, root) == 1
    assert 'train_aug.txt: "2007_val" has no mask, or is an image of' in capsys.readouterr().err


def test_the_59_classes_are_the_published_numbers():
    table = program("pascal").table_of_59()
    published = (
        "2 9 18 19 22 23 25 31 33 34 44 45 46 59 65 68 72 80 85 98 104 105 113 115 144 158 159 162 "
        "187 189 207 220 232 258 259 260 284 295 296 308 324 326 347 349 354 355 360 366 368 397 "
        "415 416 420 424 427 440 445 454 458"
    )
    assert np.flatnonzero(table < 59).tolist() == [int(one) for one in published.split()]
    assert table[table < 59].tolist() == list(range(59))


def uids(left: int, right: int) -> np.ndarray:
    return halves(left, right, 0, np.int32)


def test_pascal_parts(root, capsys):
    labels = root / "pascal_parts/labels"
    for name, split, left, right in (
        ("2008_000001", "training", 12_001_02, 93),
        ("2008_000002", "validation", 1_000_09, 6_003_41),
    ):
        write_image(root / f"VOCdevkit/VOC2010/JPEGImages/{name}.jpg")
        label_map(labels / split / f"{name}.tif", uids(left, right))
    assert run(program("panoptic_parts"), root) == 0
    names = MetadataCatalog.get("pascal_parts_val").stuff_classes
    found = labels_of("pascal_parts_train", "part_seg_file_name")
    assert found.dtype == np.uint8
    shown = [names[i - 1] for i in corners(found)[:2]]
    assert shown == ["dog eye", "tree"]
    left, right, nothing = corners(labels_of("pascal_parts_val", "part_seg_file_name"))
    assert [names[left - 1], names[right - 1], nothing] == ["aeroplane engine", "bus window", 0]
    names = MetadataCatalog.get("pascal_parts_merged_val").stuff_classes
    left, right, _ = corners(labels_of("pascal_parts_merged_train", "part_seg_file_name"))
    assert (names[left - 1], right) == ("dog head", 0)
    left, right, _ = corners(labels_of("pascal_parts_merged_val", "part_seg_file_name"))
    assert [names[left - 1], names[right - 1]] == ["aeroplane engine", "bus window"]
    assert "validation_pano: 1 label maps with 3 of 201" in capsys.readouterr().out


def write_pascal_part(root: Path) -> Path:
    """A dog with a head left, a bus with a window right; an image without an annotation."""
    given = root / "VOCdevkit/VOC2010"
    left, right = halves(1, 0, 0) > 0, halves(0, 1, 0) > 0
    head, window = left.copy(), right.copy()
    head[:-5], window[:-5] = False, False
    for split, name in (("train", "2008_000001"), ("val", "2008_000002")):
        write_image(given / f"JPEGImages/{name}.jpg")
        (given / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (given / f"ImageSets/Main/{split}.txt").write_text(f"{name}\n2009_000009\n")
        write_annotation(
            given / f"Annotations_Part/{name}.mat",
            [
                thing("dog", 12, left, {"head": head}),
                thing("bus", 6, right, {"window_20": window}),
            ],
        )
    return given / "Annotations_Part"


def test_pascal_part(root, capsys):
    write_pascal_part(root)
    module = program("pascal_part")
    assert run(module, root) == 0
    for name, shown in (
        ("pascal_part_train", ("dog head", "bus window", "dog torso", "bus body")),
        ("pascal_part_val", ("dog head", "bus window", "dog torso", "bus body")),
        ("pascal_part_merged_val", ("dog head", "bus window", "dog torso", "bus body")),
    ):
        names = MetadataCatalog.get(name).stuff_classes
        labels = labels_of(name, "part_seg_file_name")
        left, right, nothing = corners(labels)
        above = int(labels[5, 0]), int(labels[5, -1])
        assert tuple(names[i - 1] for i in (left, right, *above)) == shown
        assert nothing == 0 and labels.dtype == np.uint8
    whole = read_label_map(str(root / "pascal_part/labels/validation/2008_000002.tif"))
    assert np.unique(whole).tolist() == [0, 6_002, 12_001, 6_002_59, 12_001_01]
    before = times(root)
    assert run(module, root) == 0 and times(root) == before
    assert run(module, root, "--check") == 0
    assert "ok       validation_merged: 1 label maps with 5 of 58" in capsys.readouterr().out


def test_a_damaged_file_of_pascal_part_is_named(root, capsys):
    path = write_pascal_part(root) / "2008_000002.mat"
    path.write_bytes(path.read_bytes()[:200])
    assert run(program("pascal_part"), root) == 1
    printed = capsys.readouterr().err
    assert "2008_000002.mat: this is not an annotation" in printed
    assert len(list(root.rglob("training/*.tif"))) == 1 and not list(root.rglob("validation/*"))


def test_cityscapes_parts(root):
    place = root / "cityscapes"
    for split, town in (("train", "ulm"), ("val", "frankfurt")):
        stem = f"{split}/{town}/{town}_000000_000001"
        write_image(place / f"leftImg8bit/{stem}_leftImg8bit.png")
        label_map(place / f"gtFinePanopticParts/{stem}_gtFinePanopticParts.tif", uids(24_000_03, 4))
    assert run(program("panoptic_parts"), root) == 0
    labels = labels_of("cityscapes_panoptic_parts_val", "part_seg_file_name")
    names = MetadataCatalog.get("cityscapes_panoptic_parts_val").stuff_classes
    left, right, _ = corners(labels)
    assert (names[left - 1], right) == ("person arm", 0)


def test_unknown_label_is_named(root, capsys):
    write_image(root / "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg")
    path = root / "pascal_parts/labels/validation/2008_000001.tif"
    label_map(path, uids(12_001_02, 8_000_99))
    assert run(program("panoptic_parts"), root) == 1
    printed = capsys.readouterr().err
    assert "2008_000001.tif: the label map has unknown labels: 899" in printed
    assert not list(root.rglob("validation_pano/*"))


def write_coco(root: Path) -> Path:
    trees.coco(root)
    place = root / "coco"
    for path in (place / "panoptic_semseg_val2017").iterdir():
        path.unlink()
    return place


def test_coco(root, capsys):
    place = write_coco(root)
    module = program("coco")
    assert run(module, root) == 0
    for record in DatasetCatalog.get("coco_2017_val_sem_seg"):
        assert corners(read_label_map(record["sem_seg_file_name"])) == [0, 119, 255]
    assert "instances of val2017: 2 objects in 2 images" in capsys.readouterr().out
    content = json.loads((place / "annotations/panoptic_val2017.json").read_text())
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    (place / "annotations/panoptic_val2017_100.json").write_text(json.dumps(content))
    assert run(module, root) == 0
    (record,) = DatasetCatalog.get("coco_2017_val_100_panoptic_with_sem_seg")
    assert corners(read_label_map(record["sem_seg_file_name"])) == [0, 119, 255]
    assert read_label_map(record["pan_seg_file_name"]).shape == (HEIGHT, WIDTH, 3)


def test_interrupted_work_is_completed(root, capsys):
    place = write_coco(root)
    module = program("coco")
    run(module, root)
    first, second = sorted((place / "panoptic_semseg_val2017").iterdir())
    kept, wanted = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    (second.parent / f".{second.name}.abcd").write_bytes(wanted[:20])
    capsys.readouterr()
    assert run(module, root, "--check") == 1
    assert f"PROBLEM  semantic maps of val2017: {second}: there is no" in capsys.readouterr().out
    assert run(module, root) == 0
    assert second.read_bytes() == wanted and first.stat().st_mtime_ns == kept


def test_check_finds_what_is_wrong(root, capsys):
    place = write_coco(root)
    module = program("coco")
    run(module, root)
    first = min((place / "panoptic_semseg_val2017").iterdir())
    label_map(first, halves(0, 140, 255))
    capsys.readouterr()
    assert run(module, root, "--check") == 1
    assert f"{first}: the label 140 is not a class" in capsys.readouterr().out
    label_map(first, np.zeros((5, 5), np.uint8))
    assert run(module, root, "--check") == 1
    assert f"{first}: the label map has (5, 5) pixels, the image (64, 48)" in (
        capsys.readouterr().out
    )
    label_map(first, halves(0, 119, 255))
    module.PUBLISHED = {"val2017": 5000}
    assert run(module, root, "--check") == 1
    assert "there are 2 label maps instead of 5000" in capsys.readouterr().out


def test_several_processes_write_the_same(root):
    place = write_coco(root)
    module = program("coco")
    content = json.loads((place / "annotations/panoptic_val2017.json").read_text())
    image, annotation = content["images"][0], content["annotations"][0]
    for number in range(1000, 1040):
        name = f"{number:012}"
        for source, folder, ending in (
            (image["file_name"], "val2017", ".jpg"),
            (annotation["file_name"], "panoptic_val2017", ".png"),
        ):
            (place / folder / f"{name}{ending}").hardlink_to(place / folder / source)
        content["images"].append({**image, "id": number, "file_name": f"{name}.jpg"})
        content["annotations"].append(
            {**annotation, "image_id": number, "file_name": f"{name}.png"}
        )
    (place / "annotations/panoptic_val2017.json").write_text(json.dumps(content))
    assert exit_status(module.main, ["--root", str(root), "--workers", "2"]) == 0
    written = [path.read_bytes() for path in (place / "panoptic_semseg_val2017").iterdir()]
    assert len(written) == 42 and len(set(written)) == 1


@pytest.mark.parametrize(
    "name", ["coco", "ade20k", "ade20k_full", "pascal", "panoptic_parts", "pascal_part"]
)
def test_missing_files_list_their_sources(root, name, capsys):
    assert run(program(name), root) == 1
    printed = capsys.readouterr()
    assert len(printed.err.splitlines()) == 1 and printed.err.count(str(root)) >= 1
    assert "The files are from:" in printed.out and "http" in printed.out
    assert run(program(name), root, "--check") == 1
    assert "PROBLEM" in capsys.readouterr().out
    assert not list(root.iterdir())
