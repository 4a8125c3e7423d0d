"""Tab Group: which of several images show the object of an expression, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.gallery_view import GalleryView
from hipie.app.result_view import PRIVATE, model_choice, run_buttons


def build(context: Context) -> None:
    """Add the tab's components and events."""
    with gr.Row():
        with gr.Column(min_width=280):
            images = gr.File(
                label="Images", file_count="multiple", type="filepath", elem_id="group-images"
            )
            expression = gr.Textbox(label="Expression", elem_id="group-text")
            model = model_choice(context, "group", context.group_model)
            run, cancel = run_buttons("Segment", "group")
        with gr.Column(min_width=280):
            view = GalleryView(context, "group")

    def group(files: list[str] | None, text: str, name: str) -> Iterator[dict[Any, Any]]:
        yield from view.run(
            lambda progress: context.requests.group(progress, name, files, text),
            files,
            {"model": name, "expression": text},
        )

    event = run.click(
        group, [images, expression, model], view.outputs, concurrency_limit=None, **PRIVATE
    )
    view.add_cancel(cancel, [event])
