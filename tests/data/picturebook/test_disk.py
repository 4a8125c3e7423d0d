from __future__ import annotations

import contextlib
import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from panopticapi.evaluation import pq_compute
from panopticapi.utils import rgb2id
from pycocotools.coco import COCO

from hipie.data.picturebook import PARTS, PictureBook, PictureBookError, disk, finished, write_split
from hipie.data.picturebook.check import check_split
from hipie.data.picturebook.classes import CATEGORY_IDS, CLASS_NAMES, SPLITS, THINGS
from hipie.data.picturebook.numbering import annotation_id, image_id
from hipie.data.picturebook.records import part_label_map, semantic_map


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _coco(path: Path) -> COCO:
    with _quiet():
        return COCO(str(path))


@pytest.mark.parametrize("split", SPLITS)
def test_files_agree(small_book: Path, split: str) -> None:
    assert check_split(small_book, split) == []


@pytest.mark.parametrize("split", SPLITS)
def test_files_hold_the_pages(small_book: Path, split: str) -> None:
    coco = _coco(small_book / f"instances_{split}.json")
    parts = _coco(small_book / f"parts_{split}.json")
    for index in range(2):
        page = PictureBook(0, split).page(index)
        stem, image = f"{index:06d}", image_id(split, index)
        picture = cv2.imread(str(small_book / f"images/{split}/{stem}.jpg"))[..., ::-1]
        assert np.abs(picture.astype(int) - page.image).mean() < 5
        coded = cv2.imread(str(small_book / f"panoptic_{split}/{stem}.png"))[..., ::-1]
        assert np.array_equal(rgb2id(coded), page.panoptic)
        semantic = cv2.imread(str(small_book / f"semantic_{split}/{stem}.png"), -1)
        assert semantic.dtype == np.uint8 and np.array_equal(semantic, semantic_map(page))
        labels = cv2.imread(str(small_book / f"parts_{split}/{stem}.png"), -1)
        assert labels.dtype == np.uint8 and np.array_equal(labels, part_label_map(page))
        for thing in page.things:
            record = coco.loadAnns(annotation_id(image, thing.id))[0]
            assert np.array_equal(coco.annToMask(record), page.mask(thing.id))
            assert coco.loadCats(record["category_id"])[0]["name"] == thing.name
            assert record["bbox"] == list(thing.bbox) and record["area"] == thing.area
        own = parts.loadAnns(parts.getAnnIds(imgIds=[image]))
        masks = {part["id"] % 512: parts.annToMask(part) for part in own}
        assert set(masks) == {part.id for part in page.parts}
        assert all(np.array_equal(masks[part.id], part.mask) for part in page.parts)


def test_label_maps_encode_class_and_part(small_book: Path) -> None:
    page = PictureBook(0, "train").page(0)
    semantic, labels = semantic_map(page), part_label_map(page)
    for segment in page.segments:
        mask = page.mask(segment.id)
        assert (semantic[mask] == CLASS_NAMES.index(segment.name)).all()
        wholes = {PARTS[v - 1].whole or PARTS[v - 1].name for v in np.unique(labels[mask])}
        assert wholes == {segment.name}


def test_panopticapi_reads_it_and_finds_it_perfect(small_book: Path) -> None:
    truth = small_book / "panoptic_val.json"
    with _quiet():
        results = pq_compute(str(truth), str(truth), str(small_book / "panoptic_val"))
    assert results["All"]["pq"] == pytest.approx(1.0)
    content = json.loads(truth.read_text())
    things = {c["name"] for c in content["categories"] if c["isthing"]}
    assert things == {thing.name for thing in THINGS}
    assert all(c["id"] == CATEGORY_IDS[c["name"]] for c in content["categories"])


def test_refcoco_files(small_book: Path) -> None:
    references = pickle.loads((small_book / "refer/refs(picturebook).p").read_bytes())
    coco = _coco(small_book / "refer/instances.json")
    kinds = json.loads((small_book / "refer/sentences.json").read_text())
    fields = {"sent_ids", "file_name", "ann_id", "ref_id", "image_id", "split", "sentences"}
    assert {reference["split"] for reference in references} == set(SPLITS)
    for reference in references:
        assert set(reference) == fields | {"category_id"}
        thing = coco.anns[reference["ann_id"]]
        assert thing["image_id"] == reference["image_id"]
        assert thing["category_id"] == reference["category_id"]
        image = coco.imgs[reference["image_id"]]
        assert (small_book / "images" / image["file_name"]).exists()
        assert image["file_name"].startswith(reference["split"] + "/")
        assert [s["sent_id"] for s in reference["sentences"]] == reference["sent_ids"]
        for entry in reference["sentences"]:
            assert set(entry) == {"tokens", "raw", "sent_id", "sent"}
            assert entry["sent"].split() == entry["tokens"]
            assert kinds[str(entry["sent_id"])]["number"] == "one"
    everyone = [i for reference in references for i in reference["sent_ids"]]
    assert len(everyone) == len(set(everyone))
    assert len({reference["ref_id"] for reference in references}) == len(references)


def test_grefcoco_files(small_book: Path) -> None:
    references = json.loads((small_book / "grefer/grefs(picturebook).json").read_text())
    coco = _coco(small_book / "grefer/instances.json")
    targets = {0: 0, 1: 0, 2: 0}
    for reference in references:
        assert isinstance(reference["ann_id"], list) and reference["ann_id"]
        empty = reference["ann_id"] == [-1]
        assert empty == reference["no_target"] == (reference["category_id"] == [-1])
        targets[0 if empty else min(2, len(reference["ann_id"]))] += 1
        for thing in reference["ann_id"] if not empty else ():
            assert coco.anns[thing]["image_id"] == reference["image_id"]
    assert all(targets.values())


def test_grd_pickles(small_book: Path) -> None:
    folder = small_book / "groups/val"
    names = ("images", "annotations", "sentences", "groups")
    images, annotations, sentences, groups = (
        pickle.loads((folder / f"{name}.pkl").read_bytes()) for name in names
    )
    assert sorted(groups) == [1, 2]
    for table in (images, annotations, sentences, groups):
        assert all(key == row["id"] for key, row in table.items())
    for group in groups.values():
        source = PictureBook(0, "val").group(group["id"] - 1)
        texts = [sentences[i]["raw_sent"] for i in group["inner_sent_id"]]
        assert texts == [s.text for s in source.expressions]
        assert not set(group["inner_sent_id"]) & set(group["outer_sent_id"])
        for place, image in enumerate(group["img_id"]):
            assert (small_book / "images" / images[image]["file_name"]).exists()
            for number, identity in enumerate(group["inner_sent_id"]):
                own = [annotations[a] for a in images[image]["anno_id"]]
                found = {a["id"] % 32 for a in own if identity in a["sent_id"]}
                assert found == set(source.expressions[number].targets[place])


def test_nothing_is_drawn_twice(small_book: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_draw", lambda *_: pytest.fail("drew a page again"))
    stamp = (small_book / "panoptic_val.json").stat().st_mtime_ns
    write_split(small_book, 0, "val", 4, groups=2)
    assert (small_book / "panoptic_val.json").stat().st_mtime_ns == stamp


def _files(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_an_interrupted_run_is_completed_and_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_CHUNK", 2)

    def stop(done: int, total: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path / "a", 0, "train", 5, progress=stop)
    (tmp_path / "a/images/train/.000001.jpg.half").write_bytes(b"left by a killed process")
    assert finished(tmp_path / "a", "train") is None
    assert check_split(tmp_path / "a", "train") != []
    steps: list[tuple[int, int]] = []
    write_split(tmp_path / "a", 0, "train", 5, progress=lambda *step: steps.append(step))
    assert steps[-1] == (5, 5)
    write_split(tmp_path / "b", 0, "train", 5)
    assert _files(tmp_path / "a") == _files(tmp_path / "b")


def test_fewer_pages_replace_more(tmp_path: Path) -> None:
    write_split(tmp_path, 0, "val", 3)
    write_split(tmp_path, 0, "val", 2)
    assert len(list((tmp_path / "images/val").iterdir())) == 2
    assert check_split(tmp_path, "val") == []
    assert finished(tmp_path, "val")["count"] == 2


def test_folder_of_another_seed_is_rejected(small_book: Path) -> None:
    with pytest.raises(PictureBookError, match="seed 0, version 1"):
        write_split(small_book, 1, "train", 3)


@pytest.mark.parametrize("count", [0, -3])
def test_a_count_must_be_positive(tmp_path: Path, count: int) -> None:
    with pytest.raises(PictureBookError, match=str(count)):
        write_split(tmp_path, 0, "train", count)


def test_two_workers_draw_the_same(
    tmp_path: Path, small_book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_CHUNK", 2)
    write_split(tmp_path, 0, "val", 4, groups=2, workers=2)
    for name in ("panoptic_val.json", "images/val/000003.jpg", "groups/val/sentences.pkl"):
        assert (tmp_path / name).read_bytes() == (small_book / name).read_bytes()
