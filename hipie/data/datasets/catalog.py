"""Registration of data sets in Detectron2's `DatasetCatalog` and `MetadataCatalog`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

PROVIDER = "hipie"
"""Value of the metadata `provider` of public data sets that this package registers."""


def register_builtin(name: str, load: Callable[[], Any], **metadata: Any) -> None:
    """Register a public data set, unless other code registered this name.

    Called again, for instance for another root, it replaces its own entry.

    Args:
        name: name in the catalogs.
        load: returns the records; called when the data set is first used.
        metadata: attributes for `MetadataCatalog`.
    """
    if name in DatasetCatalog and MetadataCatalog.get(name).get("provider") != PROVIDER:
        return
    register_dataset(name, load, provider=PROVIDER, **metadata)


def register_dataset(name: str, load: Callable[[], Any], **metadata: Any) -> None:
    """Register a data set; an entry of the same name is replaced.

    Args:
        name: name in the catalogs.
        load: returns the records; called when the data set is first used.
        metadata: attributes for `MetadataCatalog`.
    """
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
    if name in MetadataCatalog:
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(**metadata)


def complete_metadata(name: str) -> None:
    """Read a registered data set whose metadata has no names of classes.

    Those of Detectron2's `register_coco_instances` are in its file, and known once it is read.

    Args:
        name: in the catalogs; others have no effect.
    """
    if name not in DatasetCatalog:
        return
    metadata = MetadataCatalog.get(name)
    # Sets of expressions have the key "task", and no classes.
    keys = ("vocabulary", "thing_classes", "stuff_classes", "parts", "task")
    if not any(map(metadata.get, keys)):
        DatasetCatalog.get(name)
