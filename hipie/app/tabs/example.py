"""Tab Example: paint an object in one image, find it in others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.example_images import Offer, examples_by_kind, examples_row, offer
from hipie.app.gallery_view import GalleryView
from hipie.app.paint_editor import paint_editor
from hipie.app.requests import painted_example
from hipie.app.result_view import PRIVATE, add_cancel, owner_of, run_buttons


def build(context: Context) -> None:
    """Add the tab's components and events, or what is needed for them."""
    name = context.example_model
    if not name:
        gr.Markdown(context.advice["example_model"])
        return
    with gr.Row():
        with gr.Column(min_width=280):
            editor = paint_editor(
                "Paint the object", "example-editor", context.requests.limits.pixels
            )
            examples = examples_row(context, "example")
            box = gr.Textbox(
                label="Or a box around it",
                info="Left, top, right, bottom in pixels, such as 20, 30, 180, 150",
                elem_id="example-box",
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
                examples,
                [editor, images],
                [
                    Offer(first.title, first.file, (first.file, [other.file for other in others]))
                    for first, *others in examples_by_kind(context)
                ],
            )
        with gr.Column(min_width=280):
            view = GalleryView(context, "example")

    def like(
        value: dict[str, Any] | None,
        sides: str,
        text: str,
        files: list[str] | None,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        yield from view.run(
            lambda progress: context.requests.like(
                progress, name, painted_example(value, sides), text, files
            ),
            files,
            {"model": name, "expression": text},
            owner_of("example", request),
        )

    run.click(like, [editor, box, label, images], view.outputs, concurrency_limit=None, **PRIVATE)
    add_cancel(context, "example", cancel, view.status)
