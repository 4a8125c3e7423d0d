"""The example images of a tab, as a row of thumbnails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from hipie.app.context import Context, ExampleImage
from hipie.app.result_view import PRIVATE


def offer_examples(
    context: Context,
    name: str,
    components: Sequence[Any],
    values: Callable[[ExampleImage], Sequence[Any]],
) -> None:
    """Add thumbnails that fill a tab's components.

    Args:
        context: with the images.
        name: prefix of the ids of the elements.
        components: what is filled.
        values: of an example, one a component.
    """
    if not context.examples:
        return
    thumbnails = gr.Dataset(
        label="Example images",
        components=[gr.Image(type="filepath", render=False)],
        samples=[[example.file] for example in context.examples],
        type="index",
        layout="gallery",
        samples_per_page=len(context.examples),
        elem_id=f"{name}-examples",
    )
    thumbnails.click(
        lambda index: list(values(context.examples[index])), thumbnails, list(components), **PRIVATE
    )
