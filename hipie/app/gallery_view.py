"""The part of a tab that shows the results of several images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.drawing import entries_of, paint
from hipie.app.requests import file_names
from hipie.app.result_view import OPACITY, message
from hipie.app.work import Progress
from hipie.segmentation import Segmentation


class GalleryView:
    """Components of the results of several images.

    Args:
        context: of the page.
        name: prefix of the ids of the elements.
    """

    def __init__(self, context: Context, name: str) -> None:
        self.context = context
        self.status = gr.HTML(message(""), elem_id=f"{name}-status")
        self.gallery = gr.Gallery(
            label="Results",
            interactive=False,
            format="png",
            columns=3,
            height="auto",
            object_fit="contain",
            buttons=[],
            elem_id=f"{name}-result",
        )
        with gr.Row():
            self.drawing = gr.DownloadButton(
                "Download PNG", interactive=False, elem_id=f"{name}-png"
            )
            self.content = gr.DownloadButton(
                "Download JSON", interactive=False, elem_id=f"{name}-json"
            )

    @property
    def outputs(self) -> list[Any]:
        """Components that `run` updates."""
        return [self.status, self.gallery, self.drawing, self.content]

    def run(
        self,
        work: Callable[[Progress], tuple[str, list[Segmentation]]],
        images: Sequence[str] | None,
        settings: Mapping[str, Any],
        owner: str,
    ) -> Iterator[dict[Any, Any]]:
        """Run work, and show its messages and results; see `ResultView.run`."""
        for update in self.context.worker.run(work, owner):
            if update.result is None:
                yield {self.status: message(update.message, update.is_error)}
                continue
            names = file_names(images or ())
            painted = [
                (paint(result.image, entries_of(result), OPACITY), _caption(name, result))
                for name, result in zip(names, update.result, strict=True)
            ]
            drawing, content = self.context.downloads.write_group(update.result, names, settings)
            yield {
                self.status: message(update.message),
                self.gallery: painted,
                self.drawing: gr.DownloadButton(value=drawing, interactive=True),
                self.content: gr.DownloadButton(value=content, interactive=True),
            }


def _caption(name: str, result: Segmentation) -> str:
    scores = [segment.score for segment in result if segment.area]
    return f"{name}: score {max(scores):.2f}" if scores else f"{name}: does not show it"
