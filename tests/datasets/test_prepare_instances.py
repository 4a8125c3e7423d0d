"""LVIS, PACO, Objects365, ODinW and SegInW: from the archives as distributed to records."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from hipie.data.datasets import register_public_datasets
from hipie.data.preparation.sources import SourceFiles
from tests import benchmark_trees as trees
from tests.exit_status import exit_status
from tests.programs import program, tree_of


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """An empty tree under which everything is registered."""
    place = tmp_path / "tree"
    place.mkdir()
    register_public_datasets(place)
    yield place
    register_public_datasets()


@pytest.fixture
def got(tmp_path: Path) -> Path:
    """An empty folder of downloads."""
    place = tmp_path / "got"
    place.mkdir()
    return place


def classes_of(name: str) -> list[str]:
    """The names of the objects in a data set's only image."""
    (record,) = DatasetCatalog.get(name)
    names = MetadataCatalog.get(name).thing_classes
    assert all(one["bbox"] == trees.BOX for one in record["annotations"])
    return [names[one["category_id"]] for one in record["annotations"]]


def zipped(archive: Path, folder: Path, start: str = "") -> None:
    """Pack a folder's files."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                content.write(path, f"{start}{path.relative_to(folder).as_posix()}")


def write_lvis(got: Path, root: Path) -> None:
    """LVIS: a zucchini, certainly no aerosol can; PACO: a trash can and a car's antenna."""
    names = ["val2017/000000000139.jpg"]
    categories = {i: f"{i}" for i in range(1, 1204)}
    file = got / "made/lvis_v1_val.json"
    trees.instances(file, root / "coco", names, categories, [1203])
    content = json.loads(file.read_text())
    (image,) = content["images"]
    image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
    image.update(neg_category_ids=[1], not_exhaustive_category_ids=[1203])
    file.write_text(json.dumps(content))
    zipped(got / "lvis_v1_val.json.zip", got / "made")
    file.unlink()
    paco = got / "made/paco_lvis_v1_val.json"
    known = {23: "trash_can", 2000: "car_(automobile):antenna"}
    trees.instances(paco, root / "coco", names, known, [23, 2000])
    content = json.loads(paco.read_text())
    content["images"][0]["neg_category_ids"] = [23]
    content["annotations"].append({**content["annotations"][0], "id": 9, "segmentation": []})
    paco.write_text(json.dumps(content))
    zipped(got / "paco_lvis_v1.zip", got / "made")
    paco.unlink()


def test_lvis_and_paco(got, root, capsys):
    write_lvis(got, root)
    module = program("lvis")
    module.PUBLISHED = dict.fromkeys(module.PUBLISHED)
    assert exit_status(module.main, ["--root", str(root), "--source", str(got)]) == 0
    printed = capsys.readouterr().out
    assert "ok       lvis_v1_val: 1 objects in 1 images" in printed
    assert "ok       paco_lvis_v1_val: " in printed
    assert classes_of("lvis_v1_val_federated") == ["zucchini"]
    assert classes_of("paco_lvis_val")[:2] == ["trash can", "car (automobile):antenna"]
    (lvis,), (paco,) = (
        DatasetCatalog.get("lvis_v1_val_federated"),
        DatasetCatalog.get("paco_lvis_val"),
    )
    assert lvis["neg_category_ids"] == [0] and lvis["not_exhaustive_category_ids"] == [1202]
    assert paco["neg_category_ids"] == [0] and "not_exhaustive_category_ids" not in paco
    module.PUBLISHED = {"lvis/lvis_v1_val.json": 19_809}
    assert exit_status(module.main, ["--root", str(root), "--check"]) == 1
    assert "there are 1 images instead of 19809" in capsys.readouterr().out


def write_in_the_wild(got: Path) -> None:
    """Three of ODinW's sets and one of SegInW's, packed as they are distributed."""
    for place, splits in (
        ("BCCD/BCCD.v3-raw.coco", ("train", "valid", "test")),
        ("CottontailRabbits", ("train", "valid", "test")),
        ("pistols/export", ("",)),
    ):
        made = got / "made" / place
        for split in splits:
            start = "" if split else "val_"
            file = made / split / f"{start}annotations_without_background.json"
            trees.instances(file, made / split, ["a b.jpg"], {1: "x"}, [1], masks=False)
        first = place.split("/")[0]
        zipped(got / f"{first}.zip", got / "made")
        os.rename(got / "made", got / f"../{first}")
    for split in ("train", "valid"):
        folder = got / "made/Hand" / split
        trees.instances(
            folder / "_annotations_min1cat.coco.json",
            folder,
            ["a.jpg"],
            {0: "background", 1: "x"},
            [1],
        )
    zipped(got / "Hand.zip", got / "made")
    os.rename(got / "made", got / "../Hand")


def test_in_the_wild(got, root, capsys):
    write_in_the_wild(got)
    module = program("in_the_wild")
    assert exit_status(module.main, ["--root", str(root), "--source", str(got)]) == 1
    printed = capsys.readouterr().out
    assert "PROBLEM  odinw: data sets: 32 of 35 are missing: AerialMaritimeDrone_large" in printed
    assert "PROBLEM  seginw: data sets: 24 of 25 are missing" in printed
    assert printed.count("ok ") == 3 + 3 + 1 + 2
    assert classes_of("odinw_BCCD_BCCD.v3-raw.coco_val") == ["Platelets"]
    assert classes_of("odinw_CottontailRabbits_test") == ["rabbit"]
    assert classes_of("odinw_pistols_export_val") == ["pistol"]
    assert classes_of("seginw_Hand_val") == ["hand"]
    whole = tree_of(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    exit_status(module.main, ["--root", str(root), "--source", str(got)])
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    (root / "odinw/BCCD/BCCD.v3-raw.coco/valid/a b.jpg").unlink()
    assert exit_status(module.main, ["--root", str(root), "--check"]) == 1
    assert '"a b.jpg" of image 1 is not in' in capsys.readouterr().out
    exit_status(module.main, ["--root", str(root), "--source", str(got)])
    assert tree_of(root) == whole


WRITERS = {"lvis": write_lvis, "in_the_wild": lambda got, root: write_in_the_wild(got)}


@pytest.mark.parametrize("name", WRITERS)
def test_interrupted_runs_are_completed(name, got, root, tmp_path, monkeypatch, capsys):
    WRITERS[name](got, root)
    module = program(name)
    module.PUBLISHED = dict.fromkeys(getattr(module, "PUBLISHED", ()))
    exit_status(module.main, ["--root", str(root), "--source", str(got)])
    whole = {path: data for path, data in tree_of(root).items() if not path.startswith("coco")}
    replace, done = os.replace, []

    def stopping(source, target):
        done.append(target)
        if len(done) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    other = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        assert exit_status(module.main, ["--root", str(other), "--source", str(got)]) == 130
    assert "interrupted; run the same command to continue" in capsys.readouterr().err
    assert not [path for path in other.rglob(".*") if path.is_file()]
    exit_status(module.main, ["--root", str(other), "--source", str(got)])
    assert tree_of(other) == whole


@pytest.mark.parametrize("name", WRITERS)
def test_faults_are_reported(name, got, root, capsys):
    module = program(name)
    assert exit_status(module.main, ["--root", str(root)]) == 2
    assert "http" in capsys.readouterr().out
    assert exit_status(module.main, ["--root", str(root), "--source", str(got)]) == 1
    assert str(got) in capsys.readouterr().err
    assert exit_status(module.main, ["--root", str(root), "--check"]) == 1
    assert "PROBLEM" in capsys.readouterr().out


def test_archives_with_any_root_folder_are_found(got, tmp_path):
    made = tmp_path / "made"
    trees.write_image(made / "train/a.jpg")
    zipped(got / "one.zip", made, "SegInW/Hand/")
    zipped(got / "Hand-Metal.zip", made, "Hand-Metal/")
    delivery = SourceFiles(got)
    assert delivery.below("hand/TRAIN") == {"a.jpg": "one/SegInW/Hand/train/a.jpg"}
    assert delivery.below("Metal/train") == {}


def write_objects365(root: Path, missing: int = 0) -> Path:
    """Version 2 as distributed: a table, in 120 images of two patches."""
    folder = root / "Objects365/images/val"
    names = [f"images/v{1 + k % 2}/patch{k % 2}/objects365_{k:08}.jpg" for k in range(120)]
    source = root / "instance365/zhiyuan_objv2_val.json"
    categories = {i: f"{i}" for i in range(1, 366)}
    trees.instances(source, root / "made", names[:1], categories, [365], masks=False)
    content = json.loads(source.read_text())
    (image,), (one,) = content["images"], content["annotations"]
    content["images"] = [{**image, "id": k, "file_name": name} for k, name in enumerate(names)]
    content["annotations"] = [{**one, "id": k + 1, "image_id": k} for k in range(120)]
    source.write_text(json.dumps(content))
    made = root / "made" / names[0]
    for k, name in enumerate(names[missing:]):
        patch = folder / Path(name).parent.name if k % 2 else folder
        patch.mkdir(parents=True, exist_ok=True)
        os.link(made, patch / Path(name).name)
    return source


def test_objects365(root, capsys):
    source = write_objects365(root, missing=1)
    module = program("objects365")
    assert exit_status(module.main, ["--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "1 images are missing and were skipped" in printed
    assert "ok       zhiyuan_objv2_val_new: 119 objects in 119 images" in printed
    records = DatasetCatalog.get("objects365_v2_val")
    assert [record["image_id"] for record in records] == list(range(1, 120))
    assert all(Path(record["file_name"]).is_file() for record in records)
    assert len({Path(record["file_name"]).parent for record in records}) == 2
    target = source.with_name("zhiyuan_objv2_val_new.json")
    written = target.stat().st_mtime_ns
    exit_status(module.main, ["--root", str(root)])
    assert target.stat().st_mtime_ns == written
    os.link(root / "made/images/v1/patch0/objects365_00000000.jpg", root / "x.jpg")
    os.rename(root / "x.jpg", root / "Objects365/images/val/objects365_00000000.jpg")
    assert exit_status(module.main, ["--root", str(root)]) == 0
    assert "120 objects in 120 images" in capsys.readouterr().out


def test_objects365_with_too_few_images(root, capsys):
    source = write_objects365(root, missing=2)
    module = program("objects365")
    assert exit_status(module.main, ["--root", str(root)]) == 1
    printed = capsys.readouterr().err
    assert f"{source}: the image images/v1/patch0/objects365_00000000.jpg and 1 others" in printed
    assert not source.with_name("zhiyuan_objv2_val_new.json").exists()


def test_objects365_without_anything(root, capsys):
    module = program("objects365")
    assert exit_status(module.main, ["--root", str(root)]) == 1
    assert "https://www.objects365.org" in capsys.readouterr().out
    assert exit_status(module.main, ["--root", str(root), "--check"]) == 1
    assert "PROBLEM  zhiyuan_objv2_train_new" in capsys.readouterr().out
