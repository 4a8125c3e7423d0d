"""Bodies of requests: read within limits, and parsed as multipart/form-data or JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from hipie.errors import printable
from hipie.serve.errors import CLOSE, RequestError
from hipie.serve.settings import Limits

# Bytes of a field of multipart/form-data that is no file.
MAX_TEXT_BYTES = 1_000_000


@dataclass(frozen=True)
class Upload:
    """A file of a request.

    Attributes:
        data: its bytes.
        name: the client's name for it, printable; "" without one.
    """

    data: bytes
    name: str = ""


async def read_fields(
    request: Request, limits: Limits, files: Sequence[str], repeated: Sequence[str]
) -> dict[str, Any]:
    """Read the fields of a request.

    Args:
        request: its body has not been read.
        limits: of the body.
        files: names of the fields that are files: a part with a file name, or base64 in JSON.
        repeated: names of the fields that may have several values, which are lists.

    Returns:
        Values by name: `Upload`s of files; texts of multipart/form-data; whatever JSON has.

    Raises:
        RequestError: 400 for a malformed body or one that ends early, 408 for one that arrives too
            slowly, 413 for one that is too large, 415 for another content type, 422 for a file that
            is none.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise RequestError(
            415,
            "send multipart/form-data or application/json, not "
            f'"{printable(kind) or "a body without a Content-Type"}"',
            CLOSE,
        )
    body = await read_body(request, limits)
    if kind == "application/json":
        return _json_fields(body, files, repeated)
    return await _form_fields(request, body, limits, files, repeated)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read the body of a request.

    Raises:
        RequestError: 400, 408 or 413; see `read_fields`.
    """
    too_large = RequestError(
        413, f"the request has more than {limits.body_bytes:,} bytes (--max-bytes)", CLOSE
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.upload_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError:
        raise RequestError(
            408, f"the request did not arrive within {limits.upload_timeout:g} s", CLOSE
        ) from None
    except ClientDisconnect:
        raise RequestError(400, "the connection was closed before the request's end") from None
    return bytes(body)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _json_fields(body: bytes, files: Sequence[str], repeated: Sequence[str]) -> dict[str, Any]:
    try:
        fields = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        place = f" at position {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise RequestError(400, f"the body is not valid JSON{place}") from None
    if not isinstance(fields, dict):
        raise RequestError(400, "the body has to be a JSON object with the fields of the request")
    for name in files:
        if name in fields:
            value = fields[name]
            several = isinstance(value, list) and name in repeated
            values = value if several else [value]
            uploads = [_decode(name, text) for text in values]
            fields[name] = uploads if name in repeated else uploads[0]
    for name in repeated:
        if isinstance(fields.get(name), str):
            fields[name] = [fields[name]]
    return fields


def _decode(name: str, text: Any) -> Upload:
    """Decode a file in base64, also as a `data:` address."""
    if not isinstance(text, str):
        raise RequestError(422, f"{name} has to be an image in base64, a string")
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return Upload(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise RequestError(422, f"{name} is not valid base64") from None


async def _form_fields(
    request: Request, body: bytes, limits: Limits, files: Sequence[str], repeated: Sequence[str]
) -> dict[str, Any]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers,
        stream(),
        max_files=limits.images + 1,
        max_fields=limits.expressions + 16,
        max_part_size=MAX_TEXT_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, LookupError) as error:
        reason = f": {error.message}" if isinstance(error, MultiPartException) else ""
        raise RequestError(400, f"the body is not valid multipart/form-data{reason}") from None
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            read = await _form_value(name, value, files)
            if name in repeated:
                fields.setdefault(name, []).append(read)
            elif name in fields:
                raise RequestError(422, f'the field "{printable(name)}" is given twice')
            else:
                fields[name] = read
    finally:
        await form.close()
    return fields


async def _form_value(name: str, value: UploadFile | str, files: Sequence[str]) -> Upload | str:
    if name in files and isinstance(value, str):
        raise RequestError(422, f"{name} has to be a file, as curl sends it by -F {name}=@FILE")
    if isinstance(value, str):
        return value
    if name not in files:
        raise RequestError(422, f'the field "{printable(name)}" is no file')
    return Upload(await value.read(), printable(value.filename or ""))
