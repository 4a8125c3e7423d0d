"""The application: its endpoints, and what all of them share."""

from __future__ import annotations

import asyncio
import hmac
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hipie import __version__
from hipie.error_report import as_hipie_errors
from hipie.errors import HipieError, printable_message
from hipie.memory_check import free_bytes
from hipie.model_zoo.models import MODELS
from hipie.predictor import Segmenter
from hipie.registration import register_all
from hipie.serve import documentation, metrics
from hipie.serve.bodies import Upload, read_fields
from hipie.serve.errors import CLOSE, RequestError, status_of
from hipie.serve.fields import (
    Fields,
    GroupFields,
    PromptFields,
    ReferFields,
    SegmentFields,
    parse_fields,
)
from hipie.serve.inference_queue import InferenceQueue, Job
from hipie.serve.model_loading import LoadedModel
from hipie.serve.results import group_response, prefers_png, result_response
from hipie.serve.settings import Limits
from hipie.task_predictors import PreparedImage, encode_together

# Images that are decoded at a time.
DECODERS = 2
# Paths that need no token.
PUBLIC_PATHS = frozenset({"/healthz"})
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

Call = Callable[[Segmenter, Sequence[Any]], Any]
Encode = Callable[[Segmenter, Sequence[PreparedImage]], None]


def create_app(model: LoadedModel[Segmenter], limits: Limits, token: str | None = None) -> FastAPI:
    """Build the application.

    Args:
        model: is started by `server.run`, or by the caller.
        limits: of requests.
        token: that requests have to bring as `Authorization: Bearer TOKEN`; None or "" = none.
    """
    service = Service(model, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.queue.close)

    app = FastAPI(
        title="hipie",
        version=__version__,
        description="Segments images by class names, expressions, points and boxes.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_http_error)
    _add_endpoints(app, service)
    _add_information(app, service)
    app.add_middleware(_Outermost, service=service, token=token)
    return app


@dataclass
class _Counted:
    """A number of requests in progress."""

    number: int = 0


class Service:
    """What the endpoints share: the model, its queue, limits and metrics.

    Args:
        model: see `create_app`.
        limits: likewise.
    """

    def __init__(self, model: LoadedModel[Segmenter], limits: Limits) -> None:
        self.model = model
        self.limits = limits
        self.accepted = _Counted()
        self.decoders = asyncio.Semaphore(DECODERS)
        self.metrics = metrics.Metrics(
            {
                ("hipie_model_loaded", "1 once the model is loaded."): self._loaded,
                ("hipie_requests_in_progress", "Requests that are read, wait or run."): (
                    lambda: self.accepted.number
                ),
                ("hipie_queue_length", "Requests that wait for the model."): (
                    lambda: len(self.queue)
                ),
                ("hipie_device_free_bytes", "Free memory of the model's device."): self._free,
            }
        )
        self.queue = InferenceQueue(_encode_batch, limits.batch, self.metrics.observe_batch)

    def _loaded(self) -> float:
        return float(self.model.is_loaded)

    def _free(self) -> float:
        if not self.model.is_loaded:
            return float("nan")
        return float(free_bytes(self.model.get().device) or "nan")

    async def respond(
        self,
        request: Request,
        kind: type[Fields],
        prepare: Callable[[Any], tuple[Sequence[Upload], Call]],
        render: Callable[[Any, Sequence[str], dict[str, Any], bool], Response],
        encode: Encode | None = None,
    ) -> Response:
        """Read a request, run it on the model, and return the response.

        Args:
            request: the request.
            kind: its fields.
            prepare: returns the images of the fields, and the call of the model.
            render: makes the response of result, names of images, settings and whether it is PNG.
            encode: computes what requests with images of equal sizes share; without it, every
                request runs alone.
        """
        segmenter = self.model.get()
        if self.accepted.number >= self.limits.queue:
            raise RequestError(
                429,
                f"there are {self.accepted.number} requests in progress, as many as are accepted; "
                "try again later",
                {**CLOSE, "Retry-After": "1"},
            )
        self.accepted.number += 1
        try:
            files = [name for name in ("image", "images") if name in kind.model_fields]
            repeated = ["images"] if kind is GroupFields else ["expression"]
            values = await read_fields(request, self.limits, files, repeated)
            fields = parse_fields(kind, values, self.limits)
            uploads, call = prepare(fields)
            async with self.decoders:
                images = await run_in_threadpool(_decode, segmenter, uploads)
            job = Job(lambda: call(segmenter, images))
            if encode is not None:
                # A batch needs images of one size, also in the model.
                image = images[0]
                job.batch_key = (encode, image.size, tuple(image.inputs["image"].shape))
                job.prepared = (encode, segmenter, image)
            result = await self._run(request, job)
            settings = {
                "program": "hipie serve",
                "version": __version__,
                "model": self.model.name,
                **fields.settings(),
            }
            png = prefers_png(request.headers.get("accept", ""))
            names = [upload.name for upload in uploads]
            return await run_in_threadpool(_render, render, result, names, settings, png)
        finally:
            self.accepted.number -= 1

    async def _run(self, request: Request, job: Job) -> Any:
        """Wait for the result of a job, as long as the client does.

        Raises:
            RequestError: 503 after the time-out; 400 when the client has closed the connection.
        """
        self.queue.submit(job)
        result = asyncio.ensure_future(asyncio.wrap_future(job.result))
        closed = asyncio.ensure_future(_wait_for_disconnect(request))
        try:
            await asyncio.wait(
                (result, closed),
                timeout=self.limits.timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if result.done():
                return result.result()
            if closed.done():
                raise RequestError(400, "the connection was closed before the result was ready")
            raise RequestError(
                503,
                f"the result was not ready within {self.limits.timeout:g} s",
                {"Retry-After": "5"},
            )
        finally:
            job.result.cancel()
            closed.cancel()
            if not result.done():
                result.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _decode(segmenter: Segmenter, uploads: Sequence[Upload]) -> list[PreparedImage]:
    """Decode images; those with too many pixels are refused by their headers."""
    images = []
    for number, upload in enumerate(uploads, 1):
        try:
            images.append(segmenter.prepare(upload.data))
        except HipieError as error:
            name = upload.name or (f"image {number}" if len(uploads) > 1 else "the image")
            reason = str(error).removeprefix("the bytes: ")
            raise RequestError(status_of(error), f"{name}: {reason}") from None
    return images


def _encode_batch(prepared: Sequence[tuple[Encode, Segmenter, PreparedImage]]) -> None:
    """Compute what the requests of a batch share."""
    encode, segmenter, _ = prepared[0]
    with as_hipie_errors():
        encode(segmenter, [image for _, _, image in prepared])


def _encode_features(_: Segmenter, images: Sequence[PreparedImage]) -> None:
    encode_together(images)


def _encode_group(segmenter: Segmenter, images: Sequence[PreparedImage], size: int) -> None:
    """Encode the images of a group for a model that segments each by itself.

    Args:
        segmenter: nothing is done for one that compares the images of a group.
        images: of the group; those of equal sizes share a pass.
        size: images of a pass, at most.
    """
    if "group" in segmenter.model.tasks:
        return
    by_shape: dict[tuple[int, ...], list[PreparedImage]] = {}
    for image in images:
        by_shape.setdefault(tuple(image.inputs["image"].shape), []).append(image)
    for alike in by_shape.values():
        for start in range(0, len(alike), size):
            if len(batch := alike[start : start + size]) > 1:
                encode_together(batch)


def _encode_for_prompts(segmenter: Segmenter, images: Sequence[PreparedImage]) -> None:
    segmenter.task_predictor("interactive", "prompt").encode_together(images)


def _render(render: Callable[..., Response], *arguments: Any) -> Response:
    with as_hipie_errors():
        return render(*arguments)


def _one(results: Any, names: Sequence[str], settings: dict[str, Any], png: bool) -> Response:
    return result_response(results, names[0], settings, png)


def _add_endpoints(app: FastAPI, service: Service) -> None:
    """Add the endpoints that run the model."""

    @app.post("/segment", openapi_extra=documentation.describe_request(SegmentFields))
    async def segment(request: Request) -> Response:
        """Segment things, stuff and parts by their names."""

        def prepare(fields: SegmentFields) -> tuple[Sequence[Upload], Call]:
            return [fields.image], lambda segmenter, images: segmenter.segment(
                images[0], fields.things, fields.stuff, fields.parts, min_score=fields.min_score
            )

        return await service.respond(request, SegmentFields, prepare, _one, _encode_features)

    @app.post("/refer", openapi_extra=documentation.describe_request(ReferFields))
    async def refer(request: Request) -> Response:
        """Segment the object that each expression describes."""

        def prepare(fields: ReferFields) -> tuple[Sequence[Upload], Call]:
            return [fields.image], lambda segmenter, images: segmenter.refer(
                images[0], fields.expression, threshold=fields.threshold
            )

        return await service.respond(request, ReferFields, prepare, _one, _encode_features)

    @app.post("/group", openapi_extra=documentation.describe_request(GroupFields))
    async def group(request: Request) -> Response:
        """Segment the object of one expression in several images, where they show it."""

        def prepare(fields: GroupFields) -> tuple[Sequence[Upload], Call]:
            def call(segmenter: Segmenter, images: Sequence[Any]) -> Any:
                _encode_group(segmenter, images, service.limits.batch)
                return segmenter.refer_group(images, fields.expression)

            return fields.images, call

        return await service.respond(request, GroupFields, prepare, group_response)

    @app.post("/prompt", openapi_extra=documentation.describe_request(PromptFields))
    async def prompt(request: Request) -> Response:
        """Segment the object of points, or those of boxes."""

        def prepare(fields: PromptFields) -> tuple[Sequence[Upload], Call]:
            return [fields.image], lambda segmenter, images: segmenter.prompt(
                images[0], fields.prompts()
            )

        return await service.respond(request, PromptFields, prepare, _one, _encode_for_prompts)


def _add_information(app: FastAPI, service: Service) -> None:
    """Add the endpoints that describe the service."""

    @app.get("/models")
    async def models() -> dict[str, Any]:
        """Return the model of this process, and those of the table of models."""
        register_all()
        table = [
            {
                "name": entry.name,
                "task": entry.task,
                "licence": entry.licence,
                "packaged": entry.is_packaged,
                "segments": bool(entry.config),
            }
            for entry in MODELS.values()
        ]
        loaded = service.model.is_loaded
        tasks = sorted(service.model.get().model.tasks) if loaded else None
        return {"loaded": {"name": service.model.name, "tasks": tasks}, "models": table}

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        """Answer with status 200 once the model is loaded, and 503 before."""
        service.model.get()
        return {"status": "ok", "model": service.model.name}

    @app.get("/metrics")
    async def prometheus() -> Response:
        """Return the metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(documentation.page(app.openapi()), headers=documentation.PAGE_HEADERS)

    create_description = app.openapi

    def openapi() -> dict[str, Any]:
        description = create_description()
        schemas = description.setdefault("components", {}).setdefault("schemas", {})
        schemas["Error"] = {
            "type": "object",
            "required": ["error"],
            "properties": {"error": {"type": "string", "description": "one sentence"}},
        }
        return description

    app.openapi = openapi  # type: ignore[method-assign]


def error_response(
    status: int, message: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the response of a refusal, `{"error": message}`."""
    return JSONResponse({"error": printable_message(message)}, status, dict(headers or {}))


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Turn a refusal of Starlette or FastAPI into ours."""
    if not isinstance(error, HTTPException):
        return error_response(422, "the request has a field or parameter that cannot be used")
    messages = {
        404: f"there is no {request.url.path}; see /docs",
        405: f"{request.url.path} does not accept {request.method}",
    }
    message = messages.get(error.status_code, str(error.detail))
    return error_response(error.status_code, message, error.headers)


class _Outermost:
    """ASGI middleware around everything: token, metrics, and errors as JSON."""

    def __init__(self, app: ASGIApp, service: Service, token: str | None) -> None:
        self.app = app
        self.service = service
        self.token = (token or "").encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        try:
            await self._respond(scope, receive, send_with_headers)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self.service.metrics.observe_request(path, status, time.perf_counter() - start)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        application: Callable[[Scope, Receive, Send], Awaitable[None]]
        if not self._is_authorized(scope):
            application = error_response(
                401,
                "the request needs the token of this service: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer", **CLOSE},
            )
        else:
            application = self.app
        try:
            with as_hipie_errors():
                await application(scope, receive, send)
        except HipieError as error:
            status = status_of(error)
            if status >= 500 and not isinstance(error, RequestError):
                print(printable_message(f"hipie serve: {error}"), file=sys.stderr, flush=True)
            headers = error.headers if isinstance(error, RequestError) else {}
            await error_response(status, str(error), headers)(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        if not self.token or scope["path"] in PUBLIC_PATHS:
            return True
        given = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                given = value
        scheme, _, token = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self.token)
