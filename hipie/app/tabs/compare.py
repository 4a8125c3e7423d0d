"""Tab Compare: two models or settings on one image, side by side behind a slider."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from hipie.app.context import Context
from hipie.app.drawing import entries_of, paint
from hipie.app.example_images import examples_row, offer_examples
from hipie.app.requests import OUTPUTS
from hipie.app.result_view import (
    OPACITY,
    PRIVATE,
    add_cancel,
    announce_image,
    message,
    model_choice,
    owner_of,
    run_buttons,
    upload_image,
)
from hipie.app.tabs.segment import chips
from hipie.app.work import Progress
from hipie.segmentation import Segmentation


def build(context: Context) -> None:
    """Add the tab's components and events."""
    with gr.Row():
        with gr.Column(min_width=280):
            image = upload_image("Image", "compare-image")
            examples = examples_row(context, "compare")
            things = chips("Things", "compare-things", "Countable; synonyms after a comma")
            stuff = chips("Stuff", "compare-stuff", "Without instances, such as grass")
            sides = [_side(context, side) for side in ("Left", "Right")]
            run, cancel = run_buttons("Compare", "compare")
            offer_examples(
                context,
                examples,
                [image, things, stuff, sides[0][0], sides[1][0]],
                lambda example: [
                    example.file,
                    list(example.things),
                    list(example.stuff),
                    *[context.model_for(example)] * 2,
                ],
            )
        with gr.Column(min_width=280):
            status = gr.HTML(message(""), elem_id="compare-status")
            slider = gr.ImageSlider(
                label="Left and right", format="png", elem_id="compare-result", buttons=[]
            )
            divider = gr.Slider(
                0,
                100,
                50,
                step=5,
                label="Divider in percent",
                elem_id="compare-divider",
            )
            files = [
                gr.DownloadButton(
                    f"Download COCO JSON, {side}",
                    interactive=False,
                    elem_id=f"compare-{side}-json",
                )
                for side in ("left", "right")
            ]
    announce_image(image, status, context.requests.limits.pixels)

    def compare(
        request: gr.Request,
        file: str | None,
        thing_names: list[str],
        stuff_names: list[str],
        *settings: Any,
    ) -> Iterator[dict[Any, Any]]:
        names = {"things": thing_names, "stuff": stuff_names}
        choices = [settings[:3], settings[3:]]

        def work(progress: Progress) -> tuple[str, list[Segmentation]]:
            results, texts = [], []
            for side, (model, output, score) in zip(("Left", "Right"), choices, strict=True):
                text, result = context.requests.segment(progress, model, file, names, output, score)
                results.append(result)
                texts.append(f"{side}: {text}")
            return "; ".join(texts), results

        for update in context.worker.run(work, owner_of("compare", request)):
            if update.result is None:
                yield {status: message(update.message, update.is_error)}
                continue
            written = [
                context.downloads.write(
                    result, {"model": model, "output": output, "min_score": score, **names}, side
                )[1]
                for side, result, (model, output, score) in zip(
                    ("left", "right"), update.result, choices, strict=True
                )
            ]
            left, right = (
                paint(result.image, entries_of(result), OPACITY) for result in update.result
            )
            yield {
                status: message(update.message),
                slider: (left, right),
                files[0]: gr.DownloadButton(value=written[0], interactive=True),
                files[1]: gr.DownloadButton(value=written[1], interactive=True),
            }

    run.click(
        compare,
        [image, things, stuff, *sides[0], *sides[1]],
        [status, slider, *files],
        concurrency_limit=None,
        **PRIVATE,
    )
    # The divider in the images is for the mouse alone.
    divider.change(
        lambda percent: gr.ImageSlider(slider_position=percent),
        divider,
        slider,
        trigger_mode="always_last",
        **PRIVATE,
    )
    add_cancel(context, "compare", cancel, status)


def _side(context: Context, side: str) -> tuple[Any, Any, Any]:
    """Model, output and least score of a side."""
    name = f"compare-{side.lower()}"
    model = model_choice(context, name, label=f"{side}: model")
    with gr.Row():
        output = gr.Dropdown(
            list(OUTPUTS),
            value=OUTPUTS[0 if side == "Left" else 1],
            label=f"{side}: output",
            elem_id=f"{name}-output",
        )
        score = gr.Slider(0, 1, 0, step=0.05, label=f"{side}: least score", elem_id=f"{name}-score")
    return model, output, score
