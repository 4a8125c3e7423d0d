"""Tab Example: paint an object in one image, find it in others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.example_images import Offer, examples_by_kind, offer
from hipie.app.gallery_view import GalleryView
from hipie.app.requests import painted_example
from hipie.app.result_view import PRIVATE, add_cancel, owner_of, run_buttons

BRUSH_COLOUR = "#e6194b"


def build(context: Context) -> None:
    """Add the tab's components and events, or what is needed for them."""
    name = context.example_model
    if not name:
        gr.Markdown(context.advice["example_model"])
        return
    with gr.Row():
        with gr.Column(min_width=280):
            editor = gr.ImageEditor(
                label="Paint the object",
                type="numpy",
                sources=["upload", "clipboard"],
                transforms=(),
                brush=gr.Brush(colors=[BRUSH_COLOUR], color_mode="fixed"),
                layers=False,
                format="png",
                elem_id="example-editor",
                buttons=[],
            )
            label = gr.Textbox(label="Name of the object", value="object", elem_id="example-label")
            images = gr.File(
                label="Images to search",
                file_count="multiple",
                type="filepath",
                elem_id="example-images",
            )
            run, cancel = run_buttons("Find it", "example")
            offer(
                "example",
                [editor, images],
                [
                    Offer(first.title, first.file, (first.file, [other.file for other in others]))
                    for first, *others in examples_by_kind(context)
                ],
            )
        with gr.Column(min_width=280):
            view = GalleryView(context, "example")

    def like(
        value: dict[str, Any] | None, text: str, files: list[str] | None, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        yield from view.run(
            lambda progress: context.requests.like(
                progress, name, painted_example(value), text, files
            ),
            files,
            {"model": name, "expression": text},
            owner_of("example", request),
        )

    run.click(like, [editor, label, images], view.outputs, concurrency_limit=None, **PRIVATE)
    add_cancel(context, "example", cancel, view.status)
