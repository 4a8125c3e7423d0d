"""Images a second of a cluster by arithmetic, and by a simulation with shards, start and failures.

The arithmetic takes the smallest of the rates that docs/scale.md lists. The simulation adds what it
leaves out: machines that start one after another, actors that wait for the driver, images that
differ, machines that are taken away (their shards are computed again), and the end, when actors
have nothing more to do. Nothing is measured here: all numbers are arguments.

    python benchmarks/cluster_simulation.py [--machines 1 10 1000] [--images N] [--actors N] ...
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie.evaluation import write_results


@dataclass(frozen=True)
class Cluster:
    """Numbers of a cluster and its images; seconds and bytes.

    Attributes:
        images: of the run.
        shard_size: images of a shard.
        actors: of a machine.
        cores: of a machine, for decoding and encoding.
        model_seconds: of the model, an image.
        core_seconds: of a core for decoding an image and encoding its result.
        image_bytes: read for an image.
        machine_bandwidth: bytes a second into a machine.
        storage_bandwidth: bytes a second out of the storage service.
        storage_requests: requests a second that the service answers.
        image_requests: requests for an image.
        shard_requests: further requests for a shard.
        driver_seconds: of the process of the command, for a shard.
        start_seconds: until a machine runs and its actors have built their models.
        spread: standard deviation of the time of an image, over its mean.
        machine_hours: mean time until a machine is taken away; 0 for never.
    """

    images: int = 10_000_000
    shard_size: int = 64
    actors: int = 8
    cores: int = 96
    model_seconds: float = 0.1
    core_seconds: float = 0.03
    image_bytes: float = 200e3
    machine_bandwidth: float = 3e9
    storage_bandwidth: float = 50e9
    storage_requests: float = 55_000.0
    image_requests: float = 2.0
    shard_requests: float = 13.0
    driver_seconds: float = 0.005
    start_seconds: float = 300.0
    spread: float = 0.3
    machine_hours: float = 200.0


def rates(cluster: Cluster, machines: int) -> dict[str, float]:
    """Return the images a second that each resource allows."""
    requests = cluster.image_requests + cluster.shard_requests / cluster.shard_size
    return {
        "model": machines * cluster.actors / cluster.model_seconds,
        "processors": machines * cluster.cores / cluster.core_seconds,
        "network of machines": machines * cluster.machine_bandwidth / cluster.image_bytes,
        "storage bandwidth": cluster.storage_bandwidth / cluster.image_bytes,
        "storage requests": cluster.storage_requests / requests,
        "driver": cluster.shard_size / cluster.driver_seconds,
    }


def simulate(cluster: Cluster, machines: int, seed: int = 0) -> dict[str, float]:
    """Simulate a run, one event a shard.

    An actor that is free waits for the driver, which hands out one shard after another, and then
    takes as long as the slowest of model, processors and network, each shared evenly by the actors.

    Returns:
        `seconds` of the run, `busy`, the share of the actors' time in which they compute, and
        `repeated`, the shards that were computed more than once.
    """
    generator = random.Random(seed)
    shards = math.ceil(cluster.images / cluster.shard_size)
    count = machines * cluster.actors
    fixed = rates(cluster, machines)
    # Seconds of a shard for one actor, where all share what the machines and the service have.
    shared = min(rate for name, rate in fixed.items() if name not in ("model", "driver"))
    mean = max(cluster.model_seconds, count / shared)
    deviation = cluster.spread / math.sqrt(cluster.shard_size)
    free = [(cluster.start_seconds * generator.uniform(0.8, 1.2), actor) for actor in range(count)]
    heapq.heapify(free)
    outages = [_next_outage(cluster, generator, 0.0) for _ in range(machines)]
    last: list[tuple[float, float] | None] = [None] * machines
    left, driver, end, busy, repeated = shards, 0.0, 0.0, 0.0, 0
    while left:
        now, actor = heapq.heappop(free)
        machine = actor // cluster.actors
        given = max(now, driver) + cluster.driver_seconds
        duration = mean * cluster.shard_size * max(0.1, generator.gauss(1, deviation))
        done = given + duration
        if done > outages[machine][0]:
            last[machine] = outages[machine]
            outages[machine] = _next_outage(cluster, generator, outages[machine][1])
        outage = last[machine]
        if outage is not None and now < outage[1] and done > outage[0]:
            # The machine is taken away, and another one starts; the shard is handed out again.
            if now < outage[0]:
                repeated, driver = repeated + 1, given
            heapq.heappush(free, (outage[1], actor))
            continue
        driver = given
        left -= 1
        busy += duration
        end = max(end, done)
        heapq.heappush(free, (done, actor))
    return {"seconds": end, "busy": busy / (end * count), "repeated": float(repeated)}


def _next_outage(cluster: Cluster, generator: random.Random, now: float) -> tuple[float, float]:
    """Return when a machine is taken away, and when another one has started in its place."""
    if not cluster.machine_hours:
        return math.inf, math.inf
    start = now + generator.expovariate(1 / (3600 * cluster.machine_hours))
    return start, start + cluster.start_seconds


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program and return the written results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 10, 1000])
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks/cluster_simulation"))
    for field in fields(Cluster):
        name = f"--{field.name.replace('_', '-')}"
        parser.add_argument(name, type=type(field.default), default=field.default)
    args = parser.parse_args(arguments)
    cluster = Cluster(**{field.name: getattr(args, field.name) for field in fields(Cluster)})
    print(", ".join(f"{field.name} {getattr(cluster, field.name):g}" for field in fields(Cluster)))
    print("| machines | limit | images a second | hours | simulated | of that busy | repeated |")
    print("|---|---|---|---|---|---|---|")
    results: dict[str, Any] = {}
    for machines in args.machines:
        allowed = rates(cluster, machines)
        limit = min(allowed, key=lambda name: allowed[name])
        simulated = simulate(cluster, machines)
        results[str(machines)] = {"rates": allowed, "limit": limit, "simulated": simulated}
        print(
            f"| {machines} | {limit} | {allowed[limit]:,.0f} "
            f"| {cluster.images / allowed[limit] / 3600:.2f} | {simulated['seconds'] / 3600:.2f} h "
            f"| {100 * simulated['busy']:.0f} % | {simulated['repeated']:.0f} shards |"
        )
    results = {"cluster_simulation": results}
    print(f"written to {write_results(results, args.output)}")
    return results


if __name__ == "__main__":
    main()
