"""The example images of a tab, as a row of buttons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from hipie.app.context import PAGE_MODEL, PHOTO_MODEL, Context, ExampleImage
from hipie.app.result_view import PRIVATE


@dataclass(frozen=True)
class Offer:
    """A button that fills a tab's components.

    Attributes:
        title: what it says.
        icon: an image file.
        values: one a component.
    """

    title: str
    icon: str
    values: Sequence[Any]


def examples_row(context: Context, name: str) -> Any:
    """Return an empty row for `offer` or `offer_examples`, at its place on the page.

    Args:
        context: with the images.
        name: prefix of the ids of the elements.
    """
    return gr.Row(
        elem_id=f"{name}-examples", elem_classes="hipie-examples", visible=bool(context.examples)
    )


def offer(row: Any, components: Sequence[Any], offers: Sequence[Offer]) -> None:
    """Add buttons that fill a tab's components.

    Args:
        row: see `examples_row`.
        components: what is filled.
        offers: the buttons.
    """
    with row:
        for one in offers:
            button = gr.Button(f"Example: {one.title}", icon=one.icon, size="sm", min_width=140)
            button.click(partial(_values, one), None, list(components), **PRIVATE)


def offer_examples(
    context: Context,
    row: Any,
    components: Sequence[Any],
    values: Callable[[ExampleImage], Sequence[Any]],
) -> None:
    """Add a button for every example image.

    Args:
        context: with the images.
        row: see `examples_row`.
        components: what is filled.
        values: of an example, one a component.
    """
    offers = [Offer(one.title, one.file, values(one)) for one in context.examples]
    offer(row, components, offers)


def examples_by_kind(context: Context) -> list[list[ExampleImage]]:
    """Return the photographs and the pages among the example images, without empty lists."""
    kinds = [
        [example for example in context.examples if example.model == model]
        for model in (PHOTO_MODEL, PAGE_MODEL)
    ]
    return [examples for examples in kinds if examples]


def _values(one: Offer) -> Any:
    """Return the values of a button, one alone where there is one component."""
    return list(one.values) if len(one.values) > 1 else one.values[0]
