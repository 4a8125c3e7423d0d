"""The image with its masks and a legend, as PNG."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import write_drawing

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder


@register_format("overlay")
class OverlayFormat(ResultFormat):
    """`NAME.png`: the drawing of `Segmentation.draw`."""

    is_recognised = True

    def files(self, name: str) -> tuple[str, ...]:
        """Return the drawing."""
        return (f"{name}.png",)

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Draw an image, which is read again if its pixels are not in the record."""
        result, title = record.segmentation(), PurePosixPath(record.name).name
        min_area = folder.settings.get("min_area")
        drawing = result.draw(title) if min_area is None else result.draw(title, min_area=min_area)
        write_drawing(folder.path / f"{record.name}.png", drawing)
