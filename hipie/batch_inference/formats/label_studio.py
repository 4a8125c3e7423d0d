"""Label Studio's JSON: a task an image, with its segments as predicted brush masks.

Format: https://labelstud.io/guide/predictions and `BrushLabels` of its tags.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

# Writes a file, and reads none.
from xml.sax.saxutils import quoteattr  # nosec B406

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.xml_text import xml_text
from hipie.batch_inference.records import ImageRecord
from hipie.data.io.brush_rle import encode_brush
from hipie.result_files import SOFTWARE, replace_file
from hipie.segmentation import Segment

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import RunFolder

FILE, LABELS = "label_studio.json", "label_studio.xml"
LOCAL_FILES = "/data/local-files/?d="
"""Address of an image that Label Studio reads from its own disk, before the path."""
TO_NAME, FROM_NAME = "image", "label"


@register_format("label-studio")
class LabelStudioFormat(ResultFormat):
    """`label_studio.json`, tasks with predictions, and `label_studio.xml`, the labelling interface.

    Parts have the `parentID` of their whole. Images are named by their absolute path, for a server
    that serves local files with the document root `/`, and frames of videos by their output name.
    """

    run_files = (FILE, LABELS)
    recognised_run_files = ()

    def finish(self, folder: RunFolder) -> None:
        """Write the files."""

        def write(file: Any) -> None:
            stream = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
            stream.write("[")
            for number, record in enumerate(folder.records()):
                stream.write((",\n" if number else "\n") + json.dumps(_task(record)))
            stream.write("\n]\n")
            stream.detach()

        replace_file(folder.path / FILE, write)
        labels = "".join(
            f"    <Label value={quoteattr(xml_text(name))}/>\n" for name in folder.category_ids()
        )
        text = (
            f'<View>\n  <Image name="{TO_NAME}" value="$image"/>\n'
            f'  <BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">\n{labels}'
            "  </BrushLabels>\n</View>\n"
        )
        replace_file(folder.path / LABELS, lambda file: file.write(text.encode()))


def image_address(record: ImageRecord) -> str:
    """Return what a task names as its image."""
    if record.frame is not None:
        return f"{record.name}.png"
    path = record.source.replace("\\", "/").lstrip("/")
    return LOCAL_FILES + quote(path, errors="surrogateescape")


def _task(record: ImageRecord) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for segment in record.segments:
        _add_results(results, segment, record, "")
    scores = [segment.score for segment in record.segments if segment.area]
    prediction = {
        "model_version": SOFTWARE,
        "score": sum(scores) / len(scores) if scores else 0.0,
        "result": results,
    }
    return {"data": {"image": image_address(record)}, "predictions": [prediction]}


def _add_results(
    results: list[dict[str, Any]], segment: Segment, record: ImageRecord, parent: str
) -> None:
    height, width = record.size
    number = parent
    if segment.area:
        number = f"segment-{len(results) + 1}"
        result: dict[str, Any] = {
            "id": number,
            "type": "brushlabels",
            "from_name": FROM_NAME,
            "to_name": TO_NAME,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": segment.score,
            "meta": {"text": [segment.kind]},
            "value": {
                "format": "rle",
                "rle": encode_brush(segment.mask),
                "brushlabels": [xml_text(segment.label)],
            },
        }
        results.append(result | ({"parentID": parent} if parent else {}))
    for part in segment.parts:
        _add_results(results, part, record, number)
