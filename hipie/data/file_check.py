"""Check of data sets before a run: their files exist and have the annotated size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from PIL import Image

from hipie.data.annotation_maps import (
    check_class_format,
    check_panoptic_format,
    read_class_map,
    read_panoptic_map,
    require_class_values,
    require_segments,
)
from hipie.data.annotation_view import dataset_vocabulary
from hipie.data.broken_images import BROKEN_ERRORS, file_of, set_reading_rules, set_skip_broken
from hipie.data.dry_count import count_records, require_ground_truth
from hipie.data.image_io import (
    distinct_values,
    open_image,
    read_image_size,
    require_complete,
    require_map_size,
    require_size,
)
from hipie.data.io.reading_rules import pixel_limit, read_by, rules_of
from hipie.data.label_values import ignore_label
from hipie.data.record_list import read_records
from hipie.data.records import sample_evenly
from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.modeling.text_encoder.class_names import check_class_names
from hipie.modeling.text_encoder.tokenizer import load_tokenizer

Record = dict[str, Any]
MAP_CHECKS: dict[str, Callable[[str, Image.Image], None]] = {
    "pan_seg_file_name": check_panoptic_format,
    "sem_seg_file_name": check_class_format,
    "part_seg_file_name": check_class_format,
}
THREADS = 8
MAX_LISTED = 5
# Maps of a data set whose pixels are read.
SAMPLED_MAPS = 8

logger = get_logger(__name__)


def check_datasets(cfg: CfgNode, *, training: bool = True) -> None:
    """Check the files and class names of all data sets of a run, before its first iteration.

    Every process reads the headers of its share of the files. Without `training`, nothing of
    DATASETS.TRAIN is read.

    Args:
        cfg: reads DATASETS.{TRAIN, TEST}, DATALOADER.{CHECK_FILES, SKIP_BROKEN, MAX_BROKEN},
            INPUT.MAX_PIXELS, MODEL.META_ARCHITECTURE and MODEL.HIPIE.TEXT.SOURCE.
        training: whether the run trains; an evaluation needs the test sets only.

    Raises:
        InputError: naming the data set and the files that cannot be used, unless they are left
            out; or a class name that the text encoder does not know.
    """
    skip = cfg.DATALOADER.SKIP_BROKEN
    train = cfg.DATASETS.TRAIN if training else ()
    for name in dict.fromkeys((*train, *cfg.DATASETS.TEST)):
        set_skip_broken(name, skip, ())
        set_reading_rules(name, rules_of(cfg))
        records = read_records(name)
        if not len(records):
            raise InputError(f"the data set {name} has no image")
        if name in cfg.DATASETS.TEST:
            count = count_records(records)
            require_ground_truth(name, count, records, MetadataCatalog.get(name).get("json_file"))
            logger.info("Test set %s: %s", name, count.text())
        if cfg.MODEL.META_ARCHITECTURE == "HIPIE":
            _check_names(name, cfg.MODEL.HIPIE.TEXT.SOURCE)
        if cfg.DATALOADER.CHECK_FILES:
            _check_dataset(name, records, cfg)


def file_faults(records: Iterable[Record], max_pixels: int | None = None) -> dict[str, str]:
    """Return what is wrong with the files of records, by the file of the image.

    Only headers and the ends of files are read.

    Args:
        records: with `file_name`, and where known `height` and `width`.
        max_pixels: see `open_image`.
    """
    limit = pixel_limit(max_pixels)  # threads have no rules of this context
    with ThreadPoolExecutor(THREADS) as pool:
        faults = pool.map(lambda record: (file_of(record), _fault(record, limit)), records)
        return {file: fault for file, fault in faults if fault}


def require_readable_maps(records: Sequence[Record], class_count: int, ignored: int) -> None:
    """Read the pixels of a few maps, whose faults are mostly those of all.

    Args:
        records: of a data set.
        class_count: number of its classes.
        ignored: the value of class maps that is not a class.

    Raises:
        InputError: naming the file; see `require_segments` and `require_class_values`.
    """
    values: set[int] = set()
    first = ""
    for record in sample_evenly(records, SAMPLED_MAPS):
        if "pan_seg_file_name" in record and "segments_info" in record:
            path = record["pan_seg_file_name"]
            require_segments(path, read_panoptic_map(path), record["segments_info"])
        elif "sem_seg_file_name" in record:
            path = record["sem_seg_file_name"]
            values.update(distinct_values(read_class_map(path)))
            first = first or path
    require_class_values(first, values, class_count, ignored)


def _check_dataset(name: str, records: Sequence[Record], cfg: CfgNode) -> None:
    rank, processes = comm.get_rank(), comm.get_world_size()
    own = range(rank, len(records), processes)
    gathered = comm.all_gather(file_faults((records[index] for index in own), cfg.INPUT.MAX_PIXELS))
    faults = {file: fault for part in gathered for file, fault in part.items()}
    if faults:
        _report(name, faults, len(records), cfg)
        set_skip_broken(name, True, faults)
        records = [record for record in records if file_of(record) not in faults]
    metadata = MetadataCatalog.get(name)
    vocabulary = dataset_vocabulary(metadata)
    count = len(vocabulary) if vocabulary else 0
    try:
        with read_by(rules_of(cfg)):
            require_readable_maps(records, count, ignore_label(metadata))
    except BROKEN_ERRORS:
        if not cfg.DATALOADER.SKIP_BROKEN:
            raise


def _report(name: str, faults: dict[str, str], count: int, cfg: CfgNode) -> None:
    """Log the faults of a data set that are left out.

    Raises:
        InputError: if they are not left out, or there are too many.
    """
    more = len(faults) - MAX_LISTED
    listed = "; ".join(list(faults.values())[:MAX_LISTED])
    listed += f"; and {more} more" if more > 0 else ""
    text = f"the data set {name}: {len(faults)} of {count} images cannot be used: {listed}"
    if not cfg.DATALOADER.SKIP_BROKEN:
        raise InputError(f"{text} (DATALOADER.SKIP_BROKEN True leaves them out)")
    if len(faults) > cfg.DATALOADER.MAX_BROKEN:
        raise InputError(
            f"{text}; these are more than DATALOADER.MAX_BROKEN {cfg.DATALOADER.MAX_BROKEN}"
        )
    if len(faults) == count:
        raise InputError(f"{text}; no image is left")
    logger.warning("Left out of %s", text)


def _check_names(name: str, source: str) -> None:
    vocabulary = dataset_vocabulary(MetadataCatalog.get(name))
    if vocabulary is not None:
        for warning in check_class_names(vocabulary, load_tokenizer(source), source):
            logger.warning("The data set %s: %s", name, warning)


def _fault(record: Record, max_pixels: int) -> str | None:
    """Return what is wrong with the files of a record; None if nothing is."""
    path = record.get("file_name")
    if path is None:
        return None
    try:
        size = read_image_size(path, max_pixels, decode=False)
        require_complete(path, max_pixels)
        require_size(path, size, (record.get("height", size[0]), record.get("width", size[1])))
        for key, check_format in MAP_CHECKS.items():
            if key in record:
                with open_image(record[key], "label map", max_pixels) as image:
                    check_format(record[key], image)
                    require_map_size(record[key], image.size[::-1], size)
                require_complete(record[key], max_pixels)
    except BROKEN_ERRORS as error:
        return str(error)
    return None
