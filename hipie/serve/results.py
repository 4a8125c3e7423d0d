"""Results of requests as JSON or PNG."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL.Image import Image
from starlette.responses import Response

from hipie.segmentation import Segmentation, group_to_dicts
from hipie.visualizer import draw_group

JSON, PNG = "application/json", "image/png"


def prefers_png(accept: str) -> bool:
    """Whether an Accept header prefers PNG to JSON (RFC 9110, section 12.5.1)."""
    return _quality(accept, PNG) > _quality(accept, JSON)


def _quality(accept: str, kind: str) -> float:
    """Quality of a media type: that of the most specific range which contains it; else 0."""
    ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
    qualities = {}
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        qualities[media] = quality
    return next((qualities[media] for media in ranges if media in qualities), 0.0)


def result_response(
    result: Segmentation, name: str, settings: Mapping[str, Any], png: bool
) -> Response:
    """Return the response with the result of one image.

    Args:
        result: the segments.
        name: of the image's file; "" without one.
        settings: what it was made with.
        png: the drawing instead of JSON.
    """
    if png:
        return _png(result.draw())
    content = result.to_dict(settings)
    content["image"]["file"] = name or None
    return _json(content)


def group_response(
    results: Sequence[Segmentation], names: Sequence[str], settings: Mapping[str, Any], png: bool
) -> Response:
    """Return the response with the results of a group; see `result_response`."""
    if png:
        return _png(draw_group(results, str(settings["expression"])))
    images = group_to_dicts(names, results)
    for entry in images:
        entry["image"]["file"] = entry["image"]["file"] or None
    return _json({"settings": dict(settings), "images": images})


def _json(content: Mapping[str, Any]) -> Response:
    return Response(json.dumps(content), media_type=JSON, headers={"Vary": "Accept"})


def _png(image: Image) -> Response:
    file = io.BytesIO()
    image.save(file, "PNG")
    return Response(file.getvalue(), media_type=PNG, headers={"Vary": "Accept"})
