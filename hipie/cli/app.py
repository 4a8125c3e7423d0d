"""`hipie app`: a page in the browser that segments images."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie import model_zoo
from hipie.cli.arguments import (
    DEFAULT_CONFIG,
    add_model_arguments,
    names_training,
    require_no_other_model,
)
from hipie.downloads.address import is_loopback
from hipie.errors import MissingPackageError, UsageError
from hipie.listening import listen

if TYPE_CHECKING:
    from hipie.app.models import ModelSpec
    from hipie.app.requests import Limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until SIGTERM or Ctrl-C.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        The exit status: 0 after SIGTERM, 130 after Ctrl-C.

    Raises:
        HipieError: with one sentence, for a port that is in use or a model that is unknown.
    """
    args = _parser().parse_args(arguments)
    require_no_other_model(args)
    from hipie.app.requests import Limits

    limits = Limits(bytes=args.max_bytes, pixels=args.max_pixels)
    if min(limits.bytes, limits.pixels) < 1:
        raise UsageError("--max-bytes and --max-pixels have to be at least 1")
    if find_spec("gradio") is None:
        raise MissingPackageError(
            'hipie app needs the package gradio, which is not installed: pip install "hipie[app]"'
        )
    listener = listen(args.host, args.port)
    port = listener.getsockname()[1]
    # gradio opens the port itself; a port in use is noticed here, before models are loaded.
    listener.close()
    if not is_loopback(args.host):
        print(
            f"hipie app: {args.host} is reached by other machines, and the page has no login",
            file=sys.stderr,
        )
    models = _models(args)
    from hipie.app import server

    def start(address: str) -> None:
        print(f"{address} is the page; Ctrl-C ends it", flush=True)

    return server.run(
        lambda folder: _page(args, models, limits, folder),
        args.host,
        port,
        limits,
        start,
        open_browser=args.browser,
    )


@dataclass(frozen=True)
class _Models:
    """Models of the page.

    Attributes:
        text: for class names and expressions; the first one is the default.
        click: for the tab Click, if there is one.
        example: for the tab Example, likewise.
    """

    text: list[ModelSpec]
    click: ModelSpec | None
    example: ModelSpec | None


def _models(args: argparse.Namespace) -> _Models:
    """Return the models of the command line, and those of the table that are on this machine.

    Raises:
        HipieError: for a device, model, configuration, key or file that does not exist.
    """
    from hipie.app.models import known_models, named_model
    from hipie.config.device import require_device

    if args.device is not None:
        require_device(args.device)
    text = known_models()
    given = _given_model(args)
    if given is None and args.opts and text:
        given = replace(text[0], options=tuple(args.opts))
    if given is not None:
        text = [given, *(spec for spec in text if spec.name != given.name)]
    if not text:
        raise UsageError("there is no model with weights on this machine: name one by --model")
    how: dict[str, Any] = {"precision": args.precision, "compile": args.compile}
    text = [replace(spec, **how) for spec in text]
    click, example = (
        named_model(source, shlex.split(options)) if source else None
        for source, options in (
            (args.click_model, args.click_opts),
            (args.example_model, args.example_opts),
        )
    )
    for spec in (given, click, example):
        if spec is not None:
            spec.check()
    return _Models(text, click, example)


def _page(args: argparse.Namespace, models: _Models, limits: Limits, folder: Path) -> Any:
    """Build the page, and begin to load the first model."""
    from hipie.app.context import Context, draw_examples
    from hipie.app.downloads import Downloads
    from hipie.app.models import ModelPool
    from hipie.app.page import build
    from hipie.app.requests import Requests
    from hipie.app.work import Worker

    _prepare_torch(args)
    special = [spec for spec in (models.click, models.example) if spec is not None]
    pool = ModelPool([*models.text, *special], args.device)
    names = [spec.name for spec in models.text]
    context = Context(
        pool=pool,
        requests=Requests(pool, limits),
        worker=Worker(),
        downloads=Downloads(folder / "results"),
        text_models=names,
        group_model=_group_model(models.text),
        click_model=models.click.name if models.click else "",
        example_model=models.example.name if models.example else "",
        advice={
            "click_model": _advice("clicks", "--click-model", "interactive"),
            "example_model": _advice("examples", "--example-model", "few_shot"),
        },
        examples=draw_examples(folder),
    )
    pool.start(names[0])
    return build(context)


def _prepare_torch(args: argparse.Namespace) -> None:
    """Set the threads of PyTorch, and on the CPU let the C library reuse memory."""
    import torch

    from hipie.engine.malloc import keep_freed_memory

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == "cpu" or (args.device is None and not torch.cuda.is_available()):
        keep_freed_memory()


def _given_model(args: argparse.Namespace) -> ModelSpec | None:
    """The model of `--model`, `--config-file` and `--weights`; None without them.

    Raises:
        UsageError: for a configuration beside the folder of a training.
    """
    from hipie.app.models import ModelSpec, named_model

    options = tuple(args.opts)
    if args.model:
        return named_model(args.model, options)
    if names_training(args):
        if args.config_file:
            raise UsageError(
                f"--weights {args.weights} is a folder with a configuration of its own: leave "
                "--config-file out, or name a file"
            )
        return ModelSpec(args.weights, args.weights, options=options)
    if args.config_file or args.weights:
        config, weights = args.config_file or DEFAULT_CONFIG, args.weights or ""
        return ModelSpec(args.config_file or weights, config, True, weights, options)
    return None


def _group_model(models: Sequence[ModelSpec]) -> str:
    """Name of the first model that compares the images of a group; else of the first one."""
    suitable = model_zoo.configs_for_task("group", trained=True)
    table = model_zoo.MODELS
    for spec in models:
        if spec.source in table and table[spec.source].config in suitable:
            return spec.name
    return models[0].name


def _advice(what: str, flag: str, task: str) -> str:
    names = ", ".join(model_zoo.configs_for_task(task)) or "none that is installed"
    return (
        f"There is no model for {what}: start `hipie app {flag} NAME`. Configurations whose model "
        f"can use them are {names}."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hipie app", description="A page in the browser that segments images."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (this machine)")
    parser.add_argument("--port", type=int, default=7860, help="0 for a free one")
    parser.add_argument("--browser", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--click-model",
        default="",
        metavar="NAME",
        help="configuration or folder of a model for the tab Click",
    )
    parser.add_argument(
        "--click-opts", default="", metavar="TEXT", help='"KEY VALUE KEY VALUE" for it'
    )
    parser.add_argument(
        "--example-model",
        default="",
        metavar="NAME",
        help="configuration or folder of a model for the tab Example",
    )
    parser.add_argument(
        "--example-opts", default="", metavar="TEXT", help='"KEY VALUE KEY VALUE" for it'
    )
    for flag, default, text in (
        ("--max-bytes", 20_000_000, "of an uploaded file"),
        ("--max-pixels", 25_000_000, "of an image"),
    ):
        parser.add_argument(
            flag, type=int, default=default, metavar="N", help=f"{text} ({default:,})"
        )
    add_model_arguments(parser)
    return parser
