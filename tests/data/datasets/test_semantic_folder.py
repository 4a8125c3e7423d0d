from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hipie.data.datasets import DatasetError, load_label_maps


def write(folder: Path, name: str, size: tuple[int, int] = (6, 4)) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(size[::-1], np.uint16)).save(folder / name)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    labels, images = tmp_path / "labels", tmp_path / "images"
    write(labels, "ulm/b_gt.tif", (5, 3))
    write(labels, "ulm/a_gt.tif")
    write(labels, "ulm/a_other.tif")
    for name in ("a", "b", "c"):
        write(images, f"ulm/{name}_left.png")
    return labels, images


def test_pairs_are_found_in_folders_within(folders) -> None:
    records = load_label_maps(
        *folders, label_suffix="_gt.tif", image_suffix="_left.png", key="part_seg_file_name"
    )
    labels, images = folders
    assert records == [
        {
            "file_name": str(images / f"ulm/{name}_left.png"),
            "height": height,
            "width": width,
            "image_id": f"ulm/{name}",
            "part_seg_file_name": str(labels / f"ulm/{name}_gt.tif"),
        }
        for name, width, height in (("a", 6, 4), ("b", 5, 3))
    ]


def test_a_map_without_an_image_is_named(folders) -> None:
    (folders[1] / "ulm/a_left.png").unlink()
    with pytest.raises(DatasetError, match=r'"ulm/a_left\.png" of a label map is not in \S+s$'):
        load_label_maps(*folders, label_suffix="_gt.tif", image_suffix="_left.png")
    (folders[1] / "ulm/b_left.png").unlink()
    with pytest.raises(DatasetError, match="nor are 1 others"):
        load_label_maps(*folders, label_suffix="_gt.tif", image_suffix="_left.png")


def test_empty_and_missing_folders_are_named(folders, tmp_path) -> None:
    with pytest.raises(DatasetError, match=r"there is no label map \*\.png in it"):
        load_label_maps(*folders)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        load_label_maps(tmp_path / "nowhere", folders[1])


def test_a_damaged_map_is_named(folders) -> None:
    (folders[0] / "ulm/a_gt.tif").write_bytes(b"II*\0 no")
    with pytest.raises(DatasetError, match=r"a_gt\.tif: this label map cannot be read"):
        load_label_maps(*folders, label_suffix="_gt.tif", image_suffix="_left.png")
