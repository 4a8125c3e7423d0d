"""Tab Segment: things, stuff and parts by class names."""

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


def chips(label: str, name: str, info: str) -> gr.Dropdown:
    """Return a list of names that can be edited."""
    return gr.Dropdown(
        [],
        value=[],
        multiselect=True,
        allow_custom_value=True,
        label=label,
        info=info,
        elem_id=name,
    )


def build(context: Context) -> None:
    """Add the tab's components and events."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = upload_image("Image", "segment-image")
            examples = examples_row(context, "segment")
            things = chips("Things", "segment-things", "Countable; synonyms after a comma")
            stuff = chips("Stuff", "segment-stuff", "Without instances, such as grass")
            parts = chips("Parts", "segment-parts", "As in car: wheel, window")
            model = model_choice(context, "segment")
            run, cancel = run_buttons("Segment", "segment")
            offer_examples(
                context,
                examples,
                [image, things, stuff, parts, model],
                lambda example: [
                    example.file,
                    list(example.things),
                    list(example.stuff),
                    list(example.parts),
                    context.model_for(example),
                ],
            )
        with gr.Column(min_width=280):
            view = ResultView(context, "segment")
    announce_image(image, view.status, context.requests.limits.pixels)

    def segment(
        file: str | None,
        thing_names: list[str],
        stuff_names: list[str],
        part_names: list[str],
        name: str,
        opacity: float,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        names = {"things": thing_names, "stuff": stuff_names, "parts": part_names}
        yield from view.run(
            lambda progress: context.requests.segment(progress, name, file, names),
            {"model": name, **names},
            opacity,
            owner_of("segment", request),
        )

    run.click(
        segment,
        [image, things, stuff, parts, model, view.opacity],
        view.outputs,
        concurrency_limit=None,
        **PRIVATE,
    )
    add_cancel(context, "segment", cancel, view.status)
