"""CVAT's XML format 1.1 for images, with masks to the pixel.

Format: https://docs.cvat.ai/docs/manual/advanced/xml_format/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# Writes a file, and reads none.
from xml.etree import ElementTree  # nosec B405

import numpy as np
from numpy.typing import NDArray

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.formats.xml_text import xml_text
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import replace_file

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import RunFolder

FILE = "cvat_annotations.xml"


@register_format("cvat")
class CvatFormat(ResultFormat):
    """`cvat_annotations.xml`: a `mask` a segment or part, in the order of their drawing."""

    run_files = (FILE,)

    def finish(self, folder: RunFolder) -> None:
        """Write the file."""

        def write(file: Any) -> None:
            file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
            file.write(b"<version>1.1</version>\n" + _meta(folder))
            for number, record in enumerate(folder.records()):
                file.write(_image(number, record))
            file.write(b"</annotations>\n")

        replace_file(folder.path / FILE, write)


def _meta(folder: RunFolder) -> bytes:
    meta = ElementTree.Element("meta")
    labels = ElementTree.SubElement(ElementTree.SubElement(meta, "task"), "labels")
    for name in folder.category_ids():
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = xml_text(name)
        ElementTree.SubElement(label, "attributes")
    return ElementTree.tostring(meta, "utf-8", xml_declaration=False) + b"\n"


def _image(number: int, record: ImageRecord) -> bytes:
    height, width = record.size
    name = record.file if record.frame is None else f"{record.name}.png"
    image = ElementTree.Element(
        "image", id=str(number), name=xml_text(name), width=str(width), height=str(height)
    )
    for order, segment in enumerate(record.walk()):
        if not segment.area:
            continue
        left, top, right, bottom = (int(side) for side in segment.box)
        ElementTree.SubElement(
            image,
            "mask",
            label=xml_text(segment.label),
            source="auto",
            occluded="0",
            rle=", ".join(map(str, run_lengths(segment.mask[top:bottom, left:right]))),
            left=str(left),
            top=str(top),
            width=str(right - left),
            height=str(bottom - top),
            z_order=str(order),
        )
    return ElementTree.tostring(image, "utf-8", xml_declaration=False) + b"\n"


def run_lengths(mask: NDArray[Any]) -> list[int]:
    """Return the lengths of the runs of a mask row by row, beginning with one of zeros.

    >>> run_lengths(np.array([[1, 1, 0], [0, 1, 1]], bool))
    [0, 2, 2, 2]
    """
    values = np.concatenate([[False], mask.ravel()])
    changes = np.flatnonzero(values[1:] != values[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()
