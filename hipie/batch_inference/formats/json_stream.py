"""JSON files of a whole run, written entry by entry so that memory does not grow with them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.batch_inference.records import ImageRecord
from hipie.result_files import SOFTWARE, replace_file

if TYPE_CHECKING:
    from hipie.batch_inference.run_folder import RunFolder


def write_lists(
    path: Path, head: Mapping[str, Any], lists: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    """Write an object of which some values are long lists, in place of the file.

    Args:
        path: of the file.
        head: the other entries, which come first.
        lists: entries by key; each is iterated once, in turn.

    Raises:
        InputError: if the file cannot be written.
    """

    def write(file: Any) -> None:
        stream = io.TextIOWrapper(file, encoding="utf-8", write_through=True)
        stream.write(json.dumps(dict(head))[:-1])
        for position, (key, entries) in enumerate(lists.items()):
            stream.write(("," if head or position else "") + f"\n{json.dumps(key)}: [")
            for number, entry in enumerate(entries):
                stream.write((",\n" if number else "\n") + json.dumps(entry))
            stream.write("\n]")
        stream.write("}\n")
        stream.detach()

    replace_file(path, write)


def file_head(folder: RunFolder) -> dict[str, Any]:
    """Return the head of a COCO file: `settings`, by which it is a result file, and `info`."""
    return {"settings": folder.settings, "info": {"description": SOFTWARE}}


def numbered_records(folder: RunFolder) -> Iterator[tuple[int, ImageRecord]]:
    """Iterate over the records by name, with the ids of their COCO file if all have different ones.

    Otherwise the ids count from 1.
    """
    given = [record.image_id for record in folder.records()]
    keep = None not in given and len(set(given)) == len(given)
    for number, record in enumerate(folder.records(), 1):
        yield (record.image_id if keep and record.image_id is not None else number), record


def coco_image(number: int, record: ImageRecord) -> dict[str, Any]:
    """Return the entry of an image in `images`."""
    height, width = record.size
    entry: dict[str, Any] = {
        "id": number,
        "file_name": record.file,
        "height": height,
        "width": width,
    }
    return entry if record.frame is None else entry | {"frame": record.frame}


def coco_categories(folder: RunFolder) -> list[dict[str, Any]]:
    """Return `categories`: every class of the folder, with `isthing`."""
    return [
        {"id": number, "name": name, "isthing": int(folder.classes[name] != "stuff")}
        for name, number in folder.category_ids().items()
    ]
