"""Drawings and `results.json` of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.errors import printable
from hipie.result_files import write_drawing, write_json
from hipie.visualizer import draw_group

if TYPE_CHECKING:
    from hipie.segmentation import Segmentation


class DemoFiles:
    """Writes drawings at once and collects their results for `results.json`.

    Args:
        folder: where the files go; files of their names are replaced.
        settings: of the run, for `results.json`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.settings = settings or {"program": "hipie demo"}
        self.results: list[dict[str, Any]] = []

    def save(self, name: str, result: Segmentation, title: str) -> None:
        """Write the drawing of one image.

        Args:
            name: of the file, without its ending.
            result: the segments.
            title: of the drawing.
        """
        result.save(self.folder / f"{name}.png", title, overwrite=True)
        self.results.append({"name": name, "title": title, **_without_settings(result)})
        labels = ", ".join(map(printable, result.labels)) or "no segment"
        print(f"{name}.png: {title}: {labels}", flush=True)

    def save_group(
        self, name: str, results: Sequence[Segmentation], expression: str, title: str
    ) -> None:
        """Write one sheet with the images of a group.

        Args:
            name: of the file, without its ending.
            results: one an image.
            expression: the group's expression.
            title: for `results.json`.
        """
        write_drawing(self.folder / f"{name}.png", draw_group(results, expression))
        images = [_without_settings(result) for result in results]
        self.results.append({"name": name, "title": title, "images": images})
        shown = sum(any(segment.area for segment in result) for result in results)
        print(f"{name}.png: {title}: {shown} of {len(results)} images", flush=True)

    def write_results(self) -> None:
        """Write `results.json`."""
        content = {"settings": self.settings, "images": self.results}
        write_json(self.folder / "results.json", content)


def _without_settings(result: Segmentation) -> dict[str, Any]:
    converted = result.to_dict()
    del converted["settings"]
    return converted
