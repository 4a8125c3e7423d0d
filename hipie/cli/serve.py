"""`hipie serve --model NAME`: segment by HTTP requests."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hipie.cli.arguments import (
    DEFAULT_CONFIG,
    add_model_arguments,
    build_segmenter,
    require_no_other_model,
)
from hipie.downloads.address import is_loopback
from hipie.errors import MissingPackageError, UsageError, printable
from hipie.listening import address_of, listen

TOKEN_VARIABLE = "HIPIE_SERVE_TOKEN"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a model until SIGTERM or Ctrl-C.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        HipieError: with one sentence, for a port that is in use or a model that cannot be loaded.
    """
    args = _parser().parse_args(arguments)
    require_no_other_model(args)
    token = _token(args.token_file)
    try:
        from hipie.serve import server
        from hipie.serve.settings import Limits
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "uvicorn", "python_multipart", "multipart", "starlette"):
            raise MissingPackageError(
                f"hipie serve needs the package {error.name}, which is not installed: "
                'pip install "hipie[serve]"'
            ) from error
        raise
    limits = Limits(
        queue=args.max_queue,
        batch=args.max_batch,
        timeout=args.timeout,
        upload_timeout=args.upload_timeout,
        body_bytes=args.max_bytes,
        pixels=args.max_pixels,
        images=args.max_images,
        names=args.max_names,
        expressions=args.max_expressions,
        prompts=args.max_prompts,
    )
    args.opts = ["INPUT.MAX_PIXELS", str(limits.pixels), *args.opts]
    name = args.model or args.config_file or args.weights or DEFAULT_CONFIG
    listener = listen(args.host, args.port)
    if not token and not is_loopback(args.host):
        print(
            f"hipie serve: {args.host} is reached by other machines, and there is no token: set "
            f"--token-file or {TOKEN_VARIABLE}",
            file=sys.stderr,
        )
    print(f"{address_of(listener, args.host)} serves {printable(name)}", flush=True)
    return server.run(listener, name, lambda: build_segmenter(args), limits, token)


def _token(file: str) -> str:
    """Read the token from its file, or else from the environment.

    Raises:
        UsageError: for a file that cannot be read or is empty, or a token with spaces in it.
    """
    token = os.environ.get(TOKEN_VARIABLE, "")
    if file:
        try:
            token = Path(file).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise UsageError(f"--token-file {file} cannot be read as a line of ASCII") from error
        if not token:
            raise UsageError(f"--token-file {file} is empty")
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UsageError("the token has to be printable ASCII without spaces")
    return token


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hipie serve",
        description="Segment by HTTP requests; docs/serve.md describes them, as /docs of the "
        "service does.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one")
    parser.add_argument(
        "--token-file",
        default="",
        metavar="FILE",
        help="requests have to bring the token in it as Authorization: Bearer TOKEN; also "
        f"{TOKEN_VARIABLE} of the environment",
    )
    for flag, kind, default, text in (
        ("--max-queue", int, 32, "requests in progress, beyond which the status is 429"),
        ("--max-batch", int, 4, "requests with images of equal sizes that run together"),
        ("--timeout", float, 60.0, "seconds until the result, beyond which the status is 503"),
        ("--upload-timeout", float, 30.0, "seconds in which a request has to arrive"),
        ("--max-bytes", int, 20_000_000, "of a request"),
        ("--max-pixels", int, 25_000_000, "of an image"),
        ("--max-images", int, 16, "of a group"),
        ("--max-names", int, 1000, "class names of a request"),
        ("--max-expressions", int, 64, "of a request"),
        ("--max-prompts", int, 256, "points and boxes of a request"),
    ):
        shown = "SECONDS" if kind is float else "N"
        parser.add_argument(
            flag, type=kind, default=default, metavar=shown, help=f"{text} ({default:,})"
        )
    add_model_arguments(parser)
    return parser
