"""Runs on Ray Data: a dataset of shards, which a pool of actors with a model each computes."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from hipie.batch_inference.progress import ProgressLines, RunProgress
from hipie.batch_inference.recorder import Segment, Summary
from hipie.distributed.output_folder import IMAGES_PER_SHARD, OutputFolder, ShardPlan
from hipie.distributed.shard_worker import (
    BuildFailure,
    ShardJob,
    ShardReport,
    ShardWorker,
    describe,
    plan_to_json,
)
from hipie.distributed.sources import ImageSource
from hipie.errors import (
    InputError,
    MachineError,
    MissingPackageError,
    UsageError,
    cause_of,
    printable,
)

# Seconds in which a cluster has to answer.
CONNECT_SECONDS = 25.0
# Of a cluster on this machine: results do not pass through Ray's memory for objects.
OBJECT_STORE_BYTES = 128 << 20
# Shards that an actor has at a time: one that it computes, and the next one.
_SHARDS_PER_ACTOR = 2


@dataclass(frozen=True)
class RayOptions:
    """How a run uses a cluster.

    Attributes:
        workers: at most so many actors; 0 for as many as the cluster has room for at the start.
        cpus: of an actor; PyTorch uses as many threads.
        gpus: of an actor, also a share of one; None for one where the cluster has GPUs.
        images_per_shard: of a new folder of results.
    """

    workers: int = 0
    cpus: int = 1
    gpus: float | None = None
    images_per_shard: int = IMAGES_PER_SHARD


def _keep_on_this_machine() -> None:
    """Let the processes of a cluster that Ray starts listen on the loopback interface alone."""
    # The names are Ray's: without clusters of several machines it uses 127.0.0.1.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Otherwise Ray would write a token into the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextmanager
def connected(address: str = "") -> Iterator[None]:
    """Connect to a cluster, or start one on this machine, for the time of the context.

    Args:
        address: `auto` for the cluster that this machine belongs to, `HOST:PORT`, or
            `ray://HOST:PORT`; "" for one on this machine.

    Raises:
        MissingPackageError: without Ray.
        MachineError: if no cluster answers within `CONNECT_SECONDS`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not address:
        _keep_on_this_machine()
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingPackageError(
            '--engine ray needs Ray Data, which is not installed: pip install "hipie[ray]"'
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _require_answer(address)
        options["address"] = address
    else:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    # On a busy machine the processes of a cluster may take longer than Ray waits for them.
    for is_last in (bool(address), True):
        try:
            ray.init(**options)
            break
        except Exception as error:
            ray.shutdown()
            if is_last:
                raise MachineError(_connect_message(address, str(error))) from error
    try:
        yield
    finally:
        ray.shutdown()


def segment_on_ray(
    sources: Sequence[ImageSource],
    output: str,
    build: Callable[[], tuple[Segment, Mapping[str, Any]]],
    *,
    formats: Sequence[str] = ("parquet",),
    options: RayOptions | None = None,
    strict: bool = False,
    overwrite: bool = False,
    progress: RunProgress | None = None,
    summary: Summary | None = None,
) -> Summary:
    """Segment the images that have no result yet on the connected cluster.

    Args:
        sources: see `find_sources`.
        output: location of the results, which every machine reaches; see `Storage`.
        build: builds the model in an actor, and can be pickled; it returns the call, from uint8
            [H, W, 3] RGB to the result, and a dict with `identity` (what results depend on),
            `settings` (what results say about how they were made), `max_pixels` (larger images
            are not read) and `classes` (kinds of all classes by name, in the order of their ids).
        formats: of `hipie.distributed.output_folder.FORMATS`.
        options: how the cluster is used.
        strict: stop at the first image that fails.
        overwrite: discard the results of earlier runs.
        progress: is told about every image.
        summary: counts into this object, which is complete after an exception, too.

    Returns:
        The counts.

    Raises:
        UsageError: if the output has results of other settings, or the cluster no room.
        InputError: with `strict`, for an image that fails; for class names that no image can be
            segmented with.
        HipieError: if the model cannot be built, or results cannot be written.
    """
    options, summary = options or RayOptions(), summary or Summary()
    progress = progress or ProgressLines()
    resources = _resources(options)
    content = _described(build, options, resources)
    with OutputFolder(
        output,
        content["identity"],
        images_per_shard=options.images_per_shard,
        overwrite=overwrite,
    ) as folder:
        plans, summary.skipped = folder.plan(sources, formats)
        job = ShardJob(build, content, output, os.getcwd(), options.cpus)
        errors: list[Mapping[str, Any]] = []
        progress.start(len(sources))
        try:
            for _ in range(summary.skipped):
                progress.advance("", False)
            for report in _reports(plans, job, options, resources):
                if report.failure is not None:
                    raise report.failure.to_error()
                summary.done += report.done
                summary.failed += len(report.errors)
                errors += report.errors
                for _ in range(report.done + len(report.errors)):
                    progress.advance(f"shard {report.number}", True)
                if strict and errors:
                    raise InputError(str(errors[0]["error"]))
        finally:
            progress.stop()
            folder.write_errors([one.file for one in sources], errors)
    return summary


def _reports(
    plans: Sequence[ShardPlan], job: ShardJob, options: RayOptions, resources: dict[str, float]
) -> Iterator[ShardReport]:
    """Compute shards, and yield what becomes of them, in any order."""
    if not plans:
        return
    import ray

    rows = [{"plan": plan_to_json(plan)} for plan in plans]
    count = min(len(plans), options.workers or _room(resources))
    pool = ray.data.ActorPoolStrategy(
        min_size=1, max_size=count, max_tasks_in_flight_per_actor=_SHARDS_PER_ACTOR
    )
    # One shard a block: what Ray tries again when an actor or a machine ends.
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ShardWorker, fn_constructor_args=(job,), compute=pool, **resources
    )
    try:
        for row in dataset.iter_rows():
            yield ShardReport.from_json(row["report"])
    except ray.exceptions.RayError as error:
        raise MachineError(f"the cluster has failed ({_shown(error)})") from error


def _described(
    build: Callable[[], tuple[Segment, Mapping[str, Any]]],
    options: RayOptions,
    resources: dict[str, float],
) -> Mapping[str, Any]:
    """Build the model on a machine of the cluster, and return what there is to know about it."""
    import ray

    task = ray.remote(**resources, max_calls=1)(describe)
    try:
        content = ray.get(task.remote(build, os.getcwd(), options.cpus))
    except ray.exceptions.RayError as error:
        raise MachineError(
            f"the cluster cannot build the model ({_shown(error)}); its machines need hipie, "
            "Detectron2 and the files that the command names"
        ) from error
    if isinstance(content, BuildFailure):
        raise content.to_error()
    return content


def _resources(options: RayOptions) -> dict[str, float]:
    """Return what Ray reserves for an actor.

    Raises:
        UsageError: if no machine of a cluster on this machine has it.
    """
    import ray

    total = ray.cluster_resources()
    gpus = options.gpus if options.gpus is not None else float(total.get("GPU", 0) >= 1)
    resources: dict[str, float] = {"num_cpus": options.cpus, "num_gpus": gpus}
    machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    fits = [
        one for one in machines if one.get("CPU", 0) >= options.cpus and one.get("GPU", 0) >= gpus
    ]
    if not fits:
        needed = f"{options.cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        if len(machines) == 1 and ray.util.get_node_ip_address() == "127.0.0.1":
            raise UsageError(f"this machine has no {needed} for a process of --engine ray")
        print(f"no machine of the cluster has {needed} yet; waiting for one", file=sys.stderr)
    return resources


def _room(resources: dict[str, float]) -> int:
    """Return how many actors the cluster has room for, at least one."""
    import ray

    total = ray.cluster_resources()
    room = [total.get("CPU", 0) / resources["num_cpus"]]
    if resources["num_gpus"]:
        room.append(total.get("GPU", 0) / resources["num_gpus"])
    return max(1, int(min(room)))


def _require_answer(address: str) -> None:
    """Check that a cluster answers, in a process of its own; Ray itself tries for two minutes.

    `CONNECT_SECONDS` begin when the process has imported Ray, which takes long on a busy machine.

    Raises:
        MachineError: if none does.
    """
    _require_port(address)
    program = (
        "import logging, sys, ray\n"
        "print(flush=True)\n"
        "ray.init(sys.argv[1], log_to_driver=False, logging_level=logging.CRITICAL)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            _, errors = process.communicate(timeout=CONNECT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise MachineError(_connect_message(address, _no_answer())) from error
        finally:
            process.kill()
    if process.returncode:
        lines = [line for line in errors.splitlines() if line.strip()]
        raise MachineError(_connect_message(address, lines[-1] if lines else ""))


def _require_port(address: str) -> None:
    """Check at once that something listens at HOST:PORT or ray://HOST:PORT.

    Raises:
        MachineError: if nothing does.
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = parts.hostname, parts.port
        if host is None or port is None:  # `auto`, and what Ray itself refuses.
            return
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except TimeoutError as error:
        raise MachineError(_connect_message(address, _no_answer())) from error
    except socket.gaierror as error:
        raise MachineError(_connect_message(address, "there is no such host")) from error
    except ValueError as error:
        raise MachineError(_connect_message(address, str(error))) from error
    except OSError as error:
        raise MachineError(_connect_message(address, cause_of(error))) from error


def _no_answer() -> str:
    return f"no answer in {CONNECT_SECONDS:.0f} seconds"


def _connect_message(address: str, cause: str) -> str:
    where = f"no Ray cluster answers at {address}" if address else "Ray cannot be started"
    return f"{where} ({printable(cause.strip().splitlines()[-1] if cause.strip() else '', 200)})"


def _shown(error: BaseException) -> str:
    """Return the last line of an error of Ray, which has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[-1] if lines else type(error).__name__, 200)
