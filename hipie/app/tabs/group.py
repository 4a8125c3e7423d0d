"""Tab Group: which of several images show the object of an expression, and where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import PAGE_MODEL, Context
from hipie.app.example_images import Offer, examples_by_kind, examples_row, offer
from hipie.app.gallery_view import GalleryView
from hipie.app.result_view import PRIVATE, add_cancel, model_choice, owner_of, run_buttons


def build(context: Context) -> None:
    """Add the tab's components and events."""
    with gr.Row():
        with gr.Column(min_width=280):
            images = gr.File(
                label="Images", file_count="multiple", type="filepath", elem_id="group-images"
            )
            examples = examples_row(context, "group")
            expression = gr.Textbox(label="Expression", elem_id="group-text")
            model = model_choice(context, "group", context.group_model)
            run, cancel = run_buttons("Segment", "group")
            offer(examples, [images, expression, model], _offers(context))
        with gr.Column(min_width=280):
            view = GalleryView(context, "group")

    def group(
        files: list[str] | None, text: str, name: str, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        yield from view.run(
            lambda progress: context.requests.group(progress, name, files, text),
            files,
            {"model": name, "expression": text},
            owner_of("group", request),
        )

    run.click(group, [images, expression, model], view.outputs, concurrency_limit=None, **PRIVATE)
    add_cancel(context, "group", cancel, view.status)


def _offers(context: Context) -> list[Offer]:
    """Return the example groups, each with the model for such images."""
    offers = []
    for examples in examples_by_kind(context):
        first = examples[0]
        kind, expression, model = "photographs", "the horse", context.model_for(first)
        if first.model == PAGE_MODEL:
            kind, expression, model = "pages", first.things[0], context.group_model
        files = [example.file for example in examples]
        offers.append(Offer(f"{kind}, {expression}", first.file, (files, expression, model)))
    return offers
