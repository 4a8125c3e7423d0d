"""Results as files: drawing, JSON as `hipie segment` writes it, and a COCO data set."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hipie.segmentation import Segment, Segmentation, group_to_dicts


class Downloads:
    """Files of results, of which the oldest ones are removed.

    Args:
        folder: for the files; it is made.
        keep: results that are kept.
    """

    def __init__(self, folder: Path, keep: int = 50) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._keep = keep
        self._results: list[Path] = []

    def write(
        self, result: Segmentation, settings: Mapping[str, Any], stem: str = "result"
    ) -> tuple[str, str]:
        """Write a drawing and a COCO data set.

        Returns:
            The names of both files.
        """
        folder = self._new_folder()
        drawing, dataset = folder / f"{stem}.png", folder / f"{stem}.json"
        result.draw().save(drawing)
        dataset.write_text(json.dumps(coco_dataset(result, settings)), encoding="utf-8")
        return str(drawing), str(dataset)

    def write_group(
        self, results: Sequence[Segmentation], names: Sequence[str], settings: Mapping[str, Any]
    ) -> tuple[str, str]:
        """Write a sheet of all images, and the JSON that `hipie group` writes."""
        from hipie.visualizer import draw_group

        folder = self._new_folder()
        sheet, content = folder / "group.png", folder / "group.json"
        draw_group(results, str(settings["expression"])).save(sheet)
        entries = {"settings": dict(settings), "images": group_to_dicts(names, results)}
        content.write_text(json.dumps(entries), encoding="utf-8")
        return str(sheet), str(content)

    def _new_folder(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self._results.append(folder)
        while len(self._results) > self._keep:
            shutil.rmtree(self._results.pop(0), ignore_errors=True)
        return folder


def coco_dataset(result: Segmentation, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a result to a COCO data set of one image, which `pycocotools.coco.COCO` reads.

    Parts are annotations of their own, with the id of their whole in `part_of`; segments without
    pixels are left out.

    Args:
        result: the segments.
        settings: what it was made with, for `info`.
    """
    labels = list(dict.fromkeys(segment.label for _, segment in result.walk()))
    height, width = result.image.shape[:2]
    annotations: list[dict[str, Any]] = []

    def add(segment: Segment, whole: int | None) -> None:
        if not segment.area:
            return
        x1, y1, x2, y2 = segment.box
        number = len(annotations) + 1
        annotation = {
            "id": number,
            "image_id": 1,
            "category_id": labels.index(segment.label) + 1,
            "kind": segment.kind,
            "score": round(float(segment.score), 4),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": segment.area,
            "iscrowd": 0,
            "segmentation": segment.rle,
        }
        annotations.append(annotation if whole is None else {**annotation, "part_of": whole})
        for part in segment.parts:
            add(part, number)

    for segment in result.segments:
        add(segment, None)
    name = Path(result.file_name).name if result.file_name else "image.png"
    return {
        "info": {"description": "hipie app", **settings},
        "images": [{"id": 1, "file_name": name, "width": width, "height": height}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(labels, 1)],
        "annotations": annotations,
    }
