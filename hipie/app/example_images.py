"""The example images of a tab, as a row of buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
    """Add buttons that fill a tab's components.

    Args:
        context: with the images.
        name: prefix of the ids of the elements.
        components: what is filled.
        values: of an example, one a component.
    """
    if not context.examples:
        return
    with gr.Row(elem_id=f"{name}-examples"):
        for number, example in enumerate(context.examples, 1):
            button = gr.Button(
                f"Example {number}: {', '.join(example.things[:3])}",
                icon=example.file,
                size="sm",
                min_width=140,
            )
            button.click(partial(_fill, values, example), None, list(components), **PRIVATE)


def _fill(values: Callable[[ExampleImage], Sequence[Any]], example: ExampleImage) -> Any:
    """Return the values of an example, one alone where there is one component."""
    filled = list(values(example))
    return filled if len(filled) > 1 else filled[0]
