"""One line of JSON an image on the standard output, as results come."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from hipie.batch_inference.formats.base import ResultFormat, register_format
from hipie.batch_inference.records import ImageRecord

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import ResultFolder


@register_format("jsonl")
class JsonLinesFormat(ResultFormat):
    """Lines on the standard output: `image`, `segments` and `answers` of `Segmentation.to_dict`.

    A run that is started again prints the lines of earlier images, too, without computing them, so
    that the output is complete.
    """

    writes_to_stdout = True

    def write(self, folder: ResultFolder, record: ImageRecord) -> None:
        """Print the line of an image."""
        content = {name: record.result[name] for name in ("image", "segments")}
        line = json.dumps(content | record.answers)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
