"""Editor of the tab Example: an image with strokes of a brush, checked before it is decoded."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hipie.data.image_io import open_image, open_image_bytes
from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError

BRUSH_COLOUR = "#e6194b"


def paint_editor(label: str, name: str, max_pixels: int) -> gr.ImageEditor:
    """Return an editor in which an object is painted over.

    Its value is that of gradio's editor with arrays, or `{"error": sentence}` for an image that
    cannot be used; see `painted_example`.

    Args:
        label: of the component.
        name: id of its element.
        max_pixels: of an image; checked before it is decoded.
    """
    editor = gr.ImageEditor(
        label=label,
        type="numpy",
        sources=["upload", "clipboard"],
        transforms=(),
        brush=gr.Brush(colors=[BRUSH_COLOUR], color_mode="fixed"),
        layers=False,
        format="png",
        elem_id=name,
        buttons=[],
    )
    untyped: Any = editor
    decode, preprocess = untyped.convert_and_format_image, untyped.preprocess

    def checked(file: Any, flatten_on_white: bool = False) -> Any:
        if file is not None:
            opened = (
                open_image(file.path, max_pixels=max_pixels)
                if hasattr(file, "path")
                else open_image_bytes(bytes(file), "the image", max_pixels=max_pixels)
            )
            with opened:
                pass
        return decode(file, flatten_on_white)

    def read(payload: Any) -> Any:
        try:
            with as_hipie_errors():
                return preprocess(payload)
        except HipieError as error:
            # The editor keeps images that have arrived until they are read.
            untyped.blob_storage.pop(payload.id, None)
            return {"error": str(error)}

    untyped.convert_and_format_image, untyped.preprocess = checked, read
    return editor
