"""Tab Click: the object of points, a box and scribbles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.clicks import INSIDE, KINDS, Clicks
from hipie.app.context import Context
from hipie.app.example_images import examples_row, offer_examples
from hipie.app.requests import require_image
from hipie.app.result_view import PRIVATE, ResultView, add_cancel, message, owner_of, upload_image
from hipie.data.image_io import read_image
from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError


def build(context: Context) -> None:
    """Add the tab's components and events, or what is needed for them."""
    name = context.click_model
    if not name:
        gr.Markdown(context.advice["click_model"])
        return
    max_pixels = context.requests.limits.pixels
    with gr.Row():
        with gr.Column(min_width=280):
            image = upload_image("Image", "click-image")
            examples = examples_row(context, "click")
            kind = gr.Radio(list(KINDS), value=INSIDE, label="A click is", elem_id="click-kind")
            canvas = gr.Image(
                label="Click here",
                interactive=False,
                format="png",
                elem_id="click-canvas",
                buttons=[],
            )
            with gr.Row():
                x = gr.Number(label="x", precision=0, minimum=0, elem_id="click-x", min_width=80)
                y = gr.Number(label="y", precision=0, minimum=0, elem_id="click-y", min_width=80)
                add = gr.Button("Add this pixel", elem_id="click-add")
            with gr.Row():
                undo = gr.Button("Undo", elem_id="click-undo")
                clear = gr.Button("Clear", elem_id="click-clear")
                cancel = gr.Button("Cancel", elem_id="click-cancel")
            offer_examples(context, examples, [image], lambda example: [example.file])
        with gr.Column(min_width=280):
            view = ResultView(context, "click")
    clicks = gr.State(Clicks())

    def show(
        file: str | None, marks: Clicks, opacity: float, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        """Draw the prompts, and segment where they are complete."""
        try:
            with as_hipie_errors():
                pixels = read_image(require_image(file), max_pixels)
        except HipieError as error:
            yield {view.status: message(str(error), True), clicks: Clicks(), canvas: None}
            return
        yield {canvas: marks.draw(pixels), clicks: marks}
        if not marks.is_complete:
            yield {view.status: message("Add a point on the object, a box or a scribble")}
            return
        prompt = marks.prompt()
        yield from view.run(
            lambda progress: context.requests.prompt(progress, name, file, prompt),
            {"model": name, **prompt},
            opacity,
            owner_of("click", request),
            marks.draw,
        )

    def put(
        file: str | None,
        marks: Clicks,
        mark: str,
        column: float,
        row: float,
        opacity: float,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        try:
            with as_hipie_errors():
                height, width = read_image(require_image(file), max_pixels).shape[:2]
                marks = marks.add(mark, column, row, (height, width))
        except HipieError as error:
            yield {view.status: message(str(error), True)}
            return
        yield from show(file, marks, opacity, request)

    def put_selected(
        file: str | None,
        marks: Clicks,
        mark: str,
        opacity: float,
        event: gr.SelectData,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        column, row = event.index
        yield from put(file, marks, mark, column, row, opacity, request)

    def put_typed(
        file: str | None,
        marks: Clicks,
        mark: str,
        column: float | None,
        row: float | None,
        opacity: float,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        if column is None or row is None:
            yield {view.status: message("Write x and y, pixels from the left and the top", True)}
            return
        yield from put(file, marks, mark, column, row, opacity, request)

    def take_back(
        file: str | None, marks: Clicks, opacity: float, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        yield from show(file, marks.undo(), opacity, request)

    def start_again(
        file: str | None, opacity: float, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        context.pool.start(name)
        yield from show(file, Clicks(), opacity, request)

    outputs = [*view.outputs, canvas, clicks]
    options: dict[str, Any] = {"concurrency_limit": None, **PRIVATE}
    canvas.select(put_selected, [image, clicks, kind, view.opacity], outputs, **options)
    add.click(put_typed, [image, clicks, kind, x, y, view.opacity], outputs, **options)
    undo.click(take_back, [image, clicks, view.opacity], outputs, **options)
    clear.click(start_again, [image, view.opacity], outputs, **options)
    image.change(start_again, [image, view.opacity], outputs, **options)
    add_cancel(context, "click", cancel, view.status)
