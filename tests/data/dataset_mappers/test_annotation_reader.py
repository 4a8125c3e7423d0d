"""Maps with more or fewer pixels than `INPUT.MAX_PIXELS` and its default."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.transforms import NoOpTransform
from PIL import Image

from hipie.data import annotation_maps, image_io
from hipie.data.dataset_mappers.annotation_reader import AnnotationReader
from hipie.data.file_check import file_faults
from hipie.data.image_io import ImageError

SIDE = 64


def record(folder: Path, key: str, side: int) -> dict:
    """Record of an image of 64x64 pixels with a map of another size."""
    Image.new("RGB", (SIDE, SIDE)).save(folder / "a.png")
    mode = "RGB" if key == "pan_seg_file_name" else "L"
    Image.new(mode, (side, side)).save(folder / "map.png")
    size = {"height": SIDE, "width": SIDE, "segments_info": []}
    return {"file_name": str(folder / "a.png"), key: str(folder / "map.png"), **size}


@pytest.mark.parametrize("key", ["pan_seg_file_name", "sem_seg_file_name", "part_seg_file_name"])
def test_maps_have_the_limit_of_the_configuration(tmp_path, key) -> None:
    reader = AnnotationReader(3, 1, 255, max_pixels=SIDE * SIDE)
    reader.read(record(tmp_path, key, SIDE), NoOpTransform())
    large = record(tmp_path, key, 4096)
    tracemalloc.start()
    with pytest.raises(ImageError, match=r"map\.png: 4096x4096 are too many pixels: at most 4,096"):
        reader.read(large, NoOpTransform())
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    if key != "part_seg_file_name":
        (fault,) = file_faults([large], SIDE * SIDE).values()
        assert "4096x4096 are too many pixels" in fault


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_larger_limit_reads_larger_maps(tmp_path, mode) -> None:
    """More pixels than the default are read where the key permits them."""
    readers = [annotation_maps.read_panoptic_map]
    if mode == "L":
        readers = [
            annotation_maps.read_class_map,
            image_io.read_label_map,
            image_io.read_saliency_mask,
        ]
    Image.new(mode, (5_000_001, 11)).save(tmp_path / "map.png", compress_level=1)
    for reader in readers:
        with pytest.raises(ImageError, match="too many pixels: at most 50,000,000"):
            reader(tmp_path / "map.png")
    read = readers[-1](tmp_path / "map.png", 60_000_000)
    assert read.shape[:2] == (11, 5_000_001) and not np.any(read[0])
