"""`--engine ray`: the run of a command on a cluster."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hipie.cli.files import print_summary, require_folder_name
from hipie.errors import UsageError, printable

if TYPE_CHECKING:
    from hipie.batch_inference.recorder import Segment

Described = Callable[[], "tuple[Segment, dict[str, Any]]"]


def run_on_cluster(
    args: argparse.Namespace,
    images: Sequence[str],
    build: Described,
    kinds: Mapping[str, str],
    part_kinds: Callable[[], Mapping[str, str]],
) -> int:
    """Segment all inputs of a command line on a cluster.

    Args:
        args: with the arguments of `add_run_arguments` and of `add_output_arguments`.
        images: the inputs; see `hipie.distributed.find_sources`.
        build: builds the model in a process of the cluster.
        kinds: see `run_on_images`.
        part_kinds: likewise.

    Returns:
        The exit status: 0, or 1 if an image could not be segmented.

    Raises:
        UsageError: if there is nothing to read, or the folder cannot take the results.
        HipieError: see `hipie.distributed.segment_on_ray`.
    """
    from hipie.batch_inference.progress import choose_progress
    from hipie.batch_inference.recorder import Summary
    from hipie.distributed import RayOptions, Storage, connected, find_sources, segment_on_ray
    from hipie.distributed.output_folder import IMAGES_PER_SHARD
    from hipie.distributed.storage import is_address

    formats = _formats(args.formats)
    if args.every is not None:
        raise UsageError("--every is about videos, which --engine ray does not read")
    exclude = Storage(args.output)
    if not is_address(args.output):
        require_folder_name(args.output)
    sources = find_sources(
        images,
        recursive=args.recursive,
        image_root=args.image_root,
        exclude=exclude.address(exclude.path),
    )
    options = RayOptions(
        args.workers or 0,
        args.cpus_per_worker or 1,
        0.0 if args.device == "cpu" and args.gpus_per_worker is None else args.gpus_per_worker,
        args.shard_size or IMAGES_PER_SHARD,
    )
    output = args.output if is_address(args.output) else os.path.abspath(args.output)
    summary = Summary()
    with connected(args.address):
        try:
            segment_on_ray(
                sources,
                output,
                partial(_build_with_classes, build, kinds, part_kinds),
                formats=formats,
                options=options,
                strict=args.strict,
                overwrite=args.overwrite,
                progress=choose_progress(),
                summary=summary,
            )
        finally:
            print_summary(args.output, summary)
    return 1 if summary.failed else 0


def _formats(arguments: Sequence[str]) -> tuple[str, ...]:
    from hipie.distributed.output_folder import FORMATS

    names = [name.strip() for argument in arguments for name in argument.split(",")]
    for name in filter(None, names):
        if name not in FORMATS:
            raise UsageError(
                f"--engine ray writes {' and '.join(FORMATS)}, not {printable(name)}; run it "
                "without --engine ray, or convert its results by hipie data convert"
            )
    return tuple(dict.fromkeys(["parquet", *filter(None, names)]))


def _build_with_classes(
    build: Described, kinds: Mapping[str, str], part_kinds: Callable[[], Mapping[str, str]]
) -> tuple[Segment, dict[str, Any]]:
    """Build the model; its `classes` are all that results may have, in the order of their ids."""
    segment, content = build()
    named = {**kinds, **{name: kind for name, kind in part_kinds().items() if name not in kinds}}
    return segment, content | {"classes": named or content["vocabulary"]}
