"""Tab Refer: the objects of referring expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.example_images import examples_row, offer_examples
from hipie.app.result_view import (
    PRIVATE,
    ResultView,
    add_cancel,
    announce_image,
    model_choice,
    owner_of,
    run_buttons,
    upload_image,
)


def build(context: Context) -> None:
    """Add the tab's components and events."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = upload_image("Image", "refer-image")
            examples = examples_row(context, "refer")
            text = gr.Textbox(
                label="Expressions, one a line", lines=3, max_lines=20, elem_id="refer-text"
            )
            model = model_choice(context, "refer")
            run, cancel = run_buttons("Segment", "refer")
            offer_examples(
                context,
                examples,
                [image, text, model],
                lambda example: [
                    example.file,
                    "\n".join(example.expressions),
                    context.model_for(example),
                ],
            )
        with gr.Column(min_width=280):
            view = ResultView(context, "refer")
    announce_image(image, view.status, context.requests.limits.pixels)

    def refer(
        file: str | None, expressions: str, name: str, opacity: float, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        yield from view.run(
            lambda progress: context.requests.refer(progress, name, file, expressions),
            {"model": name, "expressions": (expressions or "").splitlines()},
            opacity,
            owner_of("refer", request),
        )

    run.click(
        refer,
        [image, text, model, view.opacity],
        view.outputs,
        concurrency_limit=None,
        **PRIVATE,
    )
    add_cancel(context, "refer", cancel, view.status)
