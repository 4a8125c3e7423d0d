"""Tab Refer: the objects of referring expressions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.example_images import offer_examples
from hipie.app.result_view import PRIVATE, ResultView, model_choice, run_buttons, upload_image


def build(context: Context) -> None:
    """Add the tab's components and events."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = upload_image("Image", "refer-image")
            text = gr.Textbox(
                label="Expressions, one a line", lines=3, max_lines=20, elem_id="refer-text"
            )
            model = model_choice(context, "refer")
            run, cancel = run_buttons("Segment", "refer")
        with gr.Column(min_width=280):
            view = ResultView(context, "refer")
    offer_examples(
        context,
        "refer",
        [image, text],
        lambda example: [example.file, "\n".join(example.expressions)],
    )

    def refer(
        file: str | None, expressions: str, name: str, opacity: float
    ) -> Iterator[dict[Any, Any]]:
        yield from view.run(
            lambda progress: context.requests.refer(progress, name, file, expressions),
            {"model": name, "expressions": (expressions or "").splitlines()},
            opacity,
        )

    event = run.click(
        refer,
        [image, text, model, view.opacity],
        view.outputs,
        concurrency_limit=None,
        **PRIVATE,
    )
    view.add_cancel(cancel, [event])
