"""One JSON file an image, as `hipie segment IMAGE` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.records import ImageRecord
from hipie.result_files import write_json

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder


@register_format("json")
class JsonFormat(ResultFormat):
    """`NAME.json`: the object of `Segmentation.to_dict`."""

    is_recognised = True

    def files(self, name: str) -> tuple[str, ...]:
        """Return the JSON file."""
        return (f"{name}.json",)

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Write the object of an image."""
        content = {
            "image": record.result["image"],
            "settings": folder.settings,
            "segments": record.result["segments"],
            **record.answers,
        }
        write_json(folder.path / f"{record.name}.json", content)
