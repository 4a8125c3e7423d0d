"""Segmentation of many images on a cluster, by Ray Data (`pip install "hipie[ray]"`).

`find_sources` lists images on the local disk, S3, GCS and in Parquet files, `OutputFolder` knows
which of them have results, and `segment_on_ray` lets actors with a model each compute the others,
shard by shard. A shard is a Parquet file whose name and content follow from the list of inputs, so
that one that is computed again, after an actor or a machine has ended, replaces itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hipie.distributed.output_folder import OutputFolder
    from hipie.distributed.ray_engine import RayOptions, connected, segment_on_ray
    from hipie.distributed.sources import ImageSource, find_sources
    from hipie.distributed.storage import Storage

__all__ = [
    "ImageSource",
    "OutputFolder",
    "RayOptions",
    "Storage",
    "connected",
    "find_sources",
    "segment_on_ray",
]
_MODULE_OF = {
    "ImageSource": "sources",
    "OutputFolder": "output_folder",
    "RayOptions": "ray_engine",
    "Storage": "storage",
    "connected": "ray_engine",
    "find_sources": "sources",
    "segment_on_ray": "ray_engine",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
