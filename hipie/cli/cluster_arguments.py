"""Arguments of commands that can run on a cluster."""

from __future__ import annotations

import argparse

from hipie.errors import UsageError

# Argument -> its value where it is not given.
_DEFAULTS = {"address": "", "cpus_per_worker": None, "gpus_per_worker": None, "shard_size": None}
_MAX_SHARD, _MAX_CPUS = 100_000, 1024


def add_cluster_arguments(group: argparse._ArgumentGroup) -> None:
    """Add `--engine`, and what `--engine ray` takes."""
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="ray: on a cluster, by Ray Data; images and --output may be addresses such as "
        "s3://BUCKET/FOLDER, images also rows of Parquet files; --format is parquet or coco",
    )
    group.add_argument(
        "--address",
        default="",
        metavar="HOST:PORT",
        help="the cluster of --engine ray: auto for that of this machine, HOST:PORT or "
        "ray://HOST:PORT (by default one is started on this machine)",
    )
    group.add_argument(
        "--cpus-per-worker",
        type=_count(_MAX_CPUS),
        default=None,
        metavar="K",
        help="processors, and threads of PyTorch, of a process of --engine ray (default: 1)",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=_share,
        default=None,
        metavar="SHARE",
        help="GPUs of a process of --engine ray, also a share such as 0.5 (default: 1 where the "
        "cluster has GPUs)",
    )
    group.add_argument(
        "--shard-size",
        type=_count(_MAX_SHARD),
        default=None,
        metavar="N",
        help="images of a file of results of --engine ray (default: 64)",
    )


def require_no_cluster_arguments(args: argparse.Namespace) -> None:
    """Check that a command without `--engine ray` has none of its arguments.

    Raises:
        UsageError: naming the argument.
    """
    for name, default in _DEFAULTS.items():
        if getattr(args, name) != default:
            raise UsageError(f"--{name.replace('_', '-')} needs --engine ray")


class _count:
    def __init__(self, largest: int) -> None:
        self._largest = largest

    def __call__(self, text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
        if not 1 <= number <= self._largest:
            raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to {self._largest:,}")
        return number


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 64 or (share > 1 and share != int(share)):
        raise argparse.ArgumentTypeError(f"{text} is not a share of a GPU, or a number of them")
    return share
