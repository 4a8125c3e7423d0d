"""Data loaders and dataset mappers, built from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.data.common import MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from fvcore.common.registry import Registry
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from hipie.data.broken_images import (
    BROKEN_ERRORS,
    CountingLoader,
    SkippingMapper,
    set_reading_rules,
    set_skip_broken,
    usable_item,
)
from hipie.data.dataset_mappers import ReferringDatasetMapper, UniversalDatasetMapper
from hipie.data.dataset_mappers.copy_paste import CopyPaste
from hipie.data.dataset_mappers.transforms import LargeScaleJitter, training_sizes
from hipie.data.held_out_classes import held_out_indices, require_held_out
from hipie.data.io.reading_rules import read_by, rules_of
from hipie.data.label_values import background_index, ignore_label
from hipie.data.labelled_fraction import (
    labelled_indices,
    other_indices,
    unlabelled_configuration,
)
from hipie.data.record_errors import NamedMapper, record_errors
from hipie.data.record_list import RecordList, read_records
from hipie.data.records import complete_record
from hipie.data.samplers.repeat_factors import record_classes, repeat_factors
from hipie.data.samplers.training_sampler import BatchSampler, BurnInSampler, Draw
from hipie.data.supervision import (
    MASKS,
    NONE,
    require_annotations,
    supervision_kinds,
    weak_labels,
)
from hipie.data.worker_signals import blocked_signals, outlive_group_signals
from hipie.errors import InputError
from hipie.logs import get_logger
from hipie.modeling.meta_arch.base import meta_architecture
from hipie.modeling.text_encoder.tokenizer import load_tokenizer
from hipie.vocabularies.vocabulary import Vocabulary

# Mapper of data sets whose metadata has no `task`, such as Detectron2's own, and that of those
# among them that are evaluated by expressions.
DEFAULT_TASK = "universal"
REFERRING_TASK = "referring"
REFERRING_EVALUATORS = frozenset({"refer", "grefer", "refzom", "group", "cosaliency"})

Record = dict[str, Any]
logger = get_logger(__name__)

DATASET_MAPPER_REGISTRY = Registry("DATASET_MAPPER")
DATASET_MAPPER_REGISTRY.__doc__ = """
Registry of functions `(cfg, dataset_name, training) -> MappedDataset`.

A data set names its function by `task` in its metadata; the default is "referring" if its evaluator
is one of expressions, else "universal". An architecture that reads data sets in a form of its own
names another one; see `SegmentationModel.dataset_mapper`. The function returns the records as well,
so that it may convert them, for example join images to groups.
"""


@dataclass(frozen=True)
class MappedDataset:
    """Records of a data set, and the mapper that turns each of them into a model input.

    Attributes:
        records: in the form that the mapper takes. Those of training have `width` and `height`
            where batches shall be of one orientation.
        mapper: called with a record at test, and with a record and a seed in training.
        classes: returns the classes of a record, by which images with rare ones are repeated in
            training; None = no image of this data set is repeated.
    """

    records: Sequence[Record]
    mapper: Callable[..., Record]
    classes: Callable[[Record], Collection[int]] | None = None


def build_mapped_dataset(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the records and the mapper of a registered data set.

    Args:
        cfg: the configuration; its architecture may name the mapper.
        dataset_name: a name in Detectron2's catalogs.
        training: whether annotations are needed.

    Raises:
        InputError: naming the data set, if no mapper is registered for its `task`, or its records
            lack a field.
    """
    name = _mapper_name(cfg, dataset_name, training)
    if name not in DATASET_MAPPER_REGISTRY:
        registered_names = ", ".join(sorted(name for name, _ in DATASET_MAPPER_REGISTRY))
        raise InputError(
            f'the data set {dataset_name} has the task "{name}", for which no dataset mapper is '
            f"registered; there are {registered_names}"
        )
    set_skip_broken(dataset_name, cfg.DATALOADER.SKIP_BROKEN)
    set_reading_rules(dataset_name, rules_of(cfg))
    with record_errors(dataset_name), read_by(rules_of(cfg)):
        mapped: MappedDataset = DATASET_MAPPER_REGISTRY.get(name)(cfg, dataset_name, training)
    return replace(mapped, mapper=NamedMapper(mapped.mapper, dataset_name, rules_of(cfg)))


def _mapper_name(cfg: CfgNode, dataset_name: str, training: bool) -> str:
    """Return the name of a data set's mapper in `DATASET_MAPPER_REGISTRY`."""
    architecture = meta_architecture(cfg)
    name = architecture.dataset_mapper(cfg, dataset_name, training) if architecture else None
    return name or _task(MetadataCatalog.get(dataset_name))


def check_supervision(cfg: CfgNode) -> None:
    """Check `DATASETS.SUPERVISION`, before any data set is read.

    Raises:
        InputError: for an entry of another form (see `supervision_kinds`), or a set or architecture
            that is trained on masks only.
    """
    for name, kind in supervision_kinds(cfg).items():
        if kind == MASKS:
            continue
        if kind == NONE and not cfg.SEMI_SUPERVISED.ENABLED:
            raise InputError(
                f"DATASETS.SUPERVISION says that {name} has none, from which nothing is learned "
                "without SEMI_SUPERVISED.ENABLED"
            )
        architecture = meta_architecture(cfg)
        if not getattr(architecture, "supports_weak_labels", False):
            raise InputError(
                f"DATASETS.SUPERVISION says that {name} has {kind}, but "
                f"{cfg.MODEL.META_ARCHITECTURE} is trained on masks only"
            )
        if _mapper_name(cfg, name, training=True) != DEFAULT_TASK:
            raise InputError(
                f"DATASETS.SUPERVISION says that {name} has {kind}, but only data sets of a "
                "vocabulary are trained without masks"
            )


def _task(metadata: Metadata) -> str:
    is_referring = metadata.get("evaluator_type") in REFERRING_EVALUATORS
    task: str = metadata.get("task", REFERRING_TASK if is_referring else DEFAULT_TASK)
    return task


@DATASET_MAPPER_REGISTRY.register()
def universal(cfg: CfgNode, dataset_name: str, training: bool) -> MappedDataset:
    """Build the mapper for things, stuff and parts of a vocabulary.

    Records of Detectron2's own data sets, which may lack `height`, `width` and `image_id`, are
    completed.

    Args:
        cfg: reads INPUT.* and MODEL.HIPIE.TEXT.*.
        dataset_name: a registered data set with `vocabulary` or class names in its metadata.
        training: whether annotations are needed.
    """
    metadata = MetadataCatalog.get(dataset_name)
    dataset_vocabulary = metadata.get("vocabulary")
    complete = partial(_completed, first_id=0 if dataset_vocabulary else 1)
    vocabulary = dataset_vocabulary or Vocabulary.from_metadata(metadata)
    held_out = held_out_indices(cfg.DATASETS.HELD_OUT_CLASSES if training else (), vocabulary)
    records = _records(cfg, dataset_name, training, complete, held_out)
    if training:
        require_annotations(dataset_name, supervision_kinds(cfg).get(dataset_name, ""), records)
    options = image_options(cfg, training)
    options["background"] = background_index(metadata, vocabulary.names)
    if not training:
        return MappedDataset(records, UniversalDatasetMapper(vocabulary, **options))
    unseen = set(metadata.get("unseen_classes", ()))
    mapper = UniversalDatasetMapper(
        vocabulary,
        token_counts=_token_counts(vocabulary, cfg.MODEL.HIPIE.TEXT.SOURCE),
        max_tokens=cfg.MODEL.HIPIE.TEXT.MAX_TOKENS,
        negative_candidates=[
            index for index, entry in enumerate(vocabulary.classes) if entry.name not in unseen
        ],
        min_part_area=cfg.INPUT.MIN_PART_AREA,
        jitter=_jitter(cfg),
        flip=cfg.INPUT.RANDOM_FLIP,
        max_objects=cfg.INPUT.MAX_OBJECTS,
        ignore_label=ignore_label(metadata),
        ignore_unlabelled=cfg.INPUT.IGNORE_UNLABELLED,
        copy_paste=_copy_paste(cfg, dataset_name, records),
        color_distortion=cfg.INPUT.COLOR_AUG_SSD,
        part_ignore_label=metadata.get("part_ignore_label"),
        held_out=held_out,
        weak_labels=weak_labels(cfg, dataset_name),
        **options,
    )
    classes = partial(
        _classes_of_record,
        held_out=held_out,
        ignore_label=ignore_label(metadata),
        part_ignore_label=metadata.get("part_ignore_label"),
    )
    return MappedDataset(records, mapper, classes)


@DATASET_MAPPER_REGISTRY.register()
def referring(
    cfg: CfgNode, dataset_name: str, training: bool, *, with_masks: bool = True
) -> MappedDataset:
    """Build the mapper for images with referring expressions.

    Args:
        cfg: reads INPUT.*.
        dataset_name: a registered data set whose records have `expressions`.
        training: whether annotations are needed.
        with_masks: see `ReferringDatasetMapper`.
    """
    mapper = ReferringDatasetMapper(
        max_expressions=cfg.INPUT.EXPRESSIONS_PER_IMAGE,
        square_size=cfg.INPUT.SQUARE_SIZE,
        flip_prob=expression_flip_prob(cfg),
        generalized=cfg.INPUT.GENERALIZED_EXPRESSIONS,
        with_masks=with_masks,
        **image_options(cfg, training),
    )
    return MappedDataset(_records(cfg, dataset_name, training), mapper)


class MappedDatasets(Dataset[Record]):
    """Several data sets, each with its mapper, indexed by `Draw`.

    Args:
        datasets: the data sets.
        max_broken: broken images that may be left out, see `hipie.data.broken_images`; None = an
            image that cannot be used is an error.
    """

    def __init__(self, datasets: Sequence[MappedDataset], max_broken: int | None = None) -> None:
        self._max_broken = max_broken
        self._records = [_serialized(part.records) for part in datasets]
        self._mappers = [part.mapper for part in datasets]

    def __getitem__(self, draw: Draw) -> Record:
        records, mapper = self._records[draw.dataset], self._mappers[draw.dataset]
        if self._max_broken is None:
            return mapper(records[draw.index], draw.seed)
        return usable_item(
            records.__getitem__,
            len(records),
            draw.index,
            lambda record: mapper(record, draw.seed),
            self._max_broken,
        )

    def __len__(self) -> int:
        return sum(len(records) for records in self._records)


class _Batches:
    """Batch sampler for PyTorch's loader: one process's batches from an iteration on."""

    def __init__(self, sampler: BatchSampler, start: int, rank: int, processes: int) -> None:
        self._arguments = (start, rank, processes)
        self._sampler = sampler
        sampler.share(*self._arguments)

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._sampler.share(*self._arguments)


class _Loader(DataLoader[Any]):
    """PyTorch's loader, whose workers a signal to the process group does not end."""

    def __iter__(self) -> Any:
        with blocked_signals() if self.num_workers else nullcontext():
            return super().__iter__()


def build_train_loader(cfg: CfgNode, start_iteration: int = 0) -> DataLoader[Any] | CountingLoader:
    """Build the endless loader of `DATASETS.TRAIN`; a batch is of one data set and so of one task.

    Batch t depends on `cfg.SEED` and t only, so that a loader that starts at t continues exactly
    where another one stopped. Of every batch this process gets its share.

    Args:
        cfg: reads DATASETS.{TRAIN, HELD_OUT_CLASSES}, DATALOADER.{DATASET_RATIO,
            DATASET_BATCH_SIZE, NUM_WORKERS, ASPECT_RATIO_GROUPING, SAMPLER_TRAIN,
            REPEAT_THRESHOLD, REPEAT_SQRT, PIN_MEMORY, PERSISTENT_WORKERS, SKIP_BROKEN, MAX_BROKEN},
            INPUT.*, SOLVER.IMS_PER_BATCH, SEED, MODEL.DEVICE and MODEL.HIPIE.TEXT.*.
        start_iteration: number of the first batch.

    Raises:
        ValueError: naming the key or the data set that does not fit.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise InputError("DATASETS.TRAIN names no data set")
    require_held_out(cfg)
    check_supervision(cfg)
    mapped = [build_mapped_dataset(cfg, name, training=True) for name in names]
    ratios = _per_dataset(cfg.DATALOADER.DATASET_RATIO, names, "DATALOADER.DATASET_RATIO", 1.0)
    sizes = _per_dataset(
        cfg.DATALOADER.DATASET_BATCH_SIZE,
        names,
        "DATALOADER.DATASET_BATCH_SIZE",
        cfg.SOLVER.IMS_PER_BATCH,
    )
    datasets, names, is_unlabelled = _parts(cfg, mapped)
    ratios = [ratios[cfg.DATASETS.TRAIN.index(name)] for name in names]
    sizes = [sizes[cfg.DATASETS.TRAIN.index(name)] for name in names]
    is_wide = [_is_wide(dataset.records) for dataset in datasets]
    if not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        is_wide = [[False] * len(wide) for wide in is_wide]
    factors = [_repeat_factors(cfg, *pair) for pair in zip(names, datasets, strict=True)]
    options = ([int(size) for size in sizes], max(cfg.SEED, 0), factors)
    sampler = BatchSampler(is_wide, ratios, *options)
    if any(is_unlabelled):
        if all(is_unlabelled):
            raise InputError("no data set in DATASETS.TRAIN has annotations")
        first = [0.0 if none else r for r, none in zip(ratios, is_unlabelled, strict=True)]
        sampler = BurnInSampler(
            BatchSampler(is_wide, first, *options), sampler, cfg.SEMI_SUPERVISED.BURN_IN_ITERS
        )
    max_broken = cfg.DATALOADER.MAX_BROKEN if cfg.DATALOADER.SKIP_BROKEN else None
    loader: DataLoader[Any] = _Loader(
        MappedDatasets(datasets, max_broken),
        batch_sampler=_Batches(sampler, start_iteration, comm.get_rank(), comm.get_world_size()),
        **_loader_options(cfg),
    )
    return loader if max_broken is None else CountingLoader(loader, max_broken)


def _parts(
    cfg: CfgNode, mapped: Sequence[MappedDataset]
) -> tuple[list[MappedDataset], list[str], list[bool]]:
    """Divide the sets of `DATASETS.TRAIN` by `DATASETS.LABELED_FRACTION`.

    Returns:
        The parts, those with annotations first, the names of their sets, and which have none.
    """
    names, kinds = list(cfg.DATASETS.TRAIN), supervision_kinds(cfg)
    parts = [(*part, kinds.get(part[1]) == NONE) for part in zip(mapped, names, strict=True)]
    if cfg.DATASETS.LABELED_FRACTION == 1:
        return [part[0] for part in parts], names, [part[2] for part in parts]
    others = []
    for i, (dataset, name, is_unlabelled) in enumerate(parts):
        count = len(dataset.records)
        kept = labelled_indices(cfg, name, count)
        if is_unlabelled:
            continue
        records = [dataset.records[index] for index in kept]
        parts[i] = (replace(dataset, records=records), name, False)
        rest = [dataset.records[index] for index in other_indices(kept, count)]
        is_universal = _mapper_name(cfg, name, training=True) == DEFAULT_TASK
        if cfg.SEMI_SUPERVISED.ENABLED and rest and is_universal:
            unlabelled = build_mapped_dataset(
                unlabelled_configuration(cfg, name), name, training=True
            )
            others.append((replace(unlabelled, records=rest), name, True))
    parts += others
    return [part[0] for part in parts], [part[1] for part in parts], [part[2] for part in parts]


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader[Any] | CountingLoader:
    """Build the loader of one data set, image by image in order, divided among the processes.

    Args:
        cfg: reads DATALOADER.{NUM_WORKERS, PIN_MEMORY, PERSISTENT_WORKERS, SKIP_BROKEN,
            MAX_BROKEN}, MODEL.DEVICE and INPUT.*.
        dataset_name: a registered data set.
    """
    dataset = build_mapped_dataset(cfg, dataset_name, training=False)
    skip = cfg.DATALOADER.SKIP_BROKEN
    mapper = SkippingMapper(dataset.mapper) if skip else dataset.mapper
    records = MapDataset(_serialized(dataset.records), mapper)
    loader: DataLoader[Any] = _Loader(
        records,
        batch_size=1,
        sampler=InferenceSampler(len(records)),
        **_loader_options(cfg),
    )
    return CountingLoader(loader, cfg.DATALOADER.MAX_BROKEN) if skip else loader


def _loader_options(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of PyTorch's loader that training and test have in common."""
    workers = cfg.DATALOADER.NUM_WORKERS
    on_gpu = torch.device(cfg.MODEL.DEVICE).type == "cuda" and torch.cuda.is_available()
    return {
        "num_workers": workers,
        "pin_memory": cfg.DATALOADER.PIN_MEMORY and on_gpu,
        "persistent_workers": cfg.DATALOADER.PERSISTENT_WORKERS and workers > 0,
        "collate_fn": _as_list,
        "worker_init_fn": _start_worker,
    }


def _serialized(records: Sequence[Record]) -> Sequence[Record]:
    """Return records in a form that workers share; those of a list are pickled one by one."""
    if isinstance(records, list):
        serialized: Sequence[Record] = DatasetFromList(records, copy=False)
        return serialized
    return records


def image_options(cfg: CfgNode, training: bool) -> dict[str, Any]:
    """Return the options of a dataset mapper that concern sizes and format of images.

    Args:
        cfg: reads INPUT.*.
        training: whether the mapper is that of a training.
    """
    node = cfg.INPUT
    sizes = training_sizes(node.MIN_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING)
    return {
        "training": training,
        "min_sizes": sizes if training else (node.MIN_SIZE_TEST,),
        "max_size": cfg.INPUT.MAX_SIZE_TRAIN if training else cfg.INPUT.MAX_SIZE_TEST,
        "image_format": cfg.INPUT.FORMAT,
        "max_pixels": cfg.INPUT.MAX_PIXELS,
    }


def expression_flip_prob(cfg: CfgNode) -> float:
    """Return the probability of a horizontal flip of images with expressions.

    They are not flipped vertically, as "above" and "below" would change as well.
    """
    return float(cfg.INPUT.EXPRESSION_FLIP_PROB) if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0


def _token_counts(vocabulary: Vocabulary, source: str) -> list[int]:
    """Count the tokens of each class in a caption of the text encoder `source`."""
    tokenizer = load_tokenizer(source)
    texts = [f"{name}. " for name in vocabulary.names]
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _jitter(cfg: CfgNode) -> LargeScaleJitter | None:
    node = cfg.INPUT.LSJ
    if node.PROBABILITY == 0:
        return None
    return LargeScaleJitter(node.PROBABILITY, node.MIN_SCALE, node.MAX_SCALE, node.SIZE)


def _copy_paste(cfg: CfgNode, dataset_name: str, records: RecordList) -> CopyPaste | None:
    """Return the copy-paste augmentation of a training set, None where it is off.

    Raises:
        InputError: if `INPUT.COPY_PASTE.DATASETS` names a set that is not trained on.
    """
    node = cfg.INPUT.COPY_PASTE
    unknown = set(node.DATASETS) - set(cfg.DATASETS.TRAIN)
    if unknown:
        raise InputError(
            f"INPUT.COPY_PASTE.DATASETS names {sorted(unknown)[0]}, which is not in DATASETS.TRAIN"
        )
    if node.PROBABILITY == 0 or (node.DATASETS and dataset_name not in node.DATASETS):
        return None
    if weak_labels(cfg, dataset_name) is not None:
        if node.DATASETS:
            raise InputError(
                f"INPUT.COPY_PASTE.DATASETS names {dataset_name}, which has no masks to paste by "
                "DATASETS.SUPERVISION"
            )
        return None
    return CopyPaste(node.PROBABILITY, records, cfg.DATALOADER.SKIP_BROKEN)


def _records(
    cfg: CfgNode,
    dataset_name: str,
    training: bool,
    complete: Callable[[Record], Record] | None = None,
    held_out: Collection[int] = (),
) -> RecordList:
    """Return the records of a data set, shared by the processes of a machine.

    Args:
        cfg: reads INPUT.GENERALIZED_EXPRESSIONS and DATALOADER.FILTER_EMPTY_ANNOTATIONS.
        dataset_name: a registered data set.
        training: keep only records with ground truth; without FILTER_EMPTY_ANNOTATIONS also images
            without objects, but no image whose expressions describe nothing.
        complete: called on every record that is kept.
        held_out: classes whose objects are no ground truth.

    Raises:
        ValueError: if no record is kept in training.
    """
    no_target = cfg.INPUT.GENERALIZED_EXPRESSIONS
    keep_empty = not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS

    def select(records: list[Record]) -> list[Record]:
        if not records:
            raise InputError(f"the data set {dataset_name} has no image")
        # gRefCOCO has images whose refs have no sentence.
        selected = [record for record in records if record.get("expressions", True)]
        if training:
            selected = [
                record
                for record in selected
                if _has_objects(record, no_target, held_out)
                or (keep_empty and "expressions" not in record)
            ]
        if not selected:
            raise InputError(_nothing_to_learn(dataset_name, records))
        records = selected
        return [complete(record) for record in records] if complete else records

    return read_records(dataset_name, select)


def _nothing_to_learn(dataset_name: str, records: Sequence[Record]) -> str:
    """Say why no image of a data set has ground truth."""
    if all("expressions" in record for record in records):
        if not any(record["expressions"] for record in records):
            return f"no image of the data set {dataset_name} has an expression"
        return f"no expression of the data set {dataset_name} describes exactly one object"
    objects = [
        entry
        for record in records
        for entry in record.get("annotations") or record.get("segments_info") or ()
    ]
    crowds = f"; all of its {len(objects)} annotations are crowds (iscrowd 1)" if objects else ""
    return f"no image of the data set {dataset_name} has an object to learn from{crowds}"


def _classes_of_record(record: Record, held_out: Collection[int], **options: Any) -> set[int]:
    return record_classes(record, **options).difference(held_out)


def _has_objects(record: Record, no_target: bool, held_out: Collection[int]) -> bool:
    """Whether a record has ground truth; `no_target` counts expressions that describe nothing."""
    if "tags" in record:
        return True
    if "expressions" in record:
        return any(no_target or len(entry["targets"]) == 1 for entry in record["expressions"])
    if "part_seg_file_name" in record:
        return True
    if "segments_info" not in record and "annotations" not in record:
        return "sem_seg_file_name" in record
    objects = record["segments_info"] if "segments_info" in record else record["annotations"]
    return any(
        not annotation.get("iscrowd", 0) and annotation.get("category_id") not in held_out
        for annotation in objects
    )


def _completed(record: Record, *, first_id: int) -> Record:
    """Return a record with the fields that this package's readers provide.

    Detectron2's reader of LVIS leaves the ids of absent classes as they are in the file, from 1.
    """
    completed = complete_record(record)
    if "neg_category_ids" in record:
        completed["neg_category_ids"] = [i - first_id for i in record["neg_category_ids"]]
    return completed


def _is_wide(records: Sequence[Record]) -> Sequence[bool]:
    if isinstance(records, RecordList):
        return records.is_wide.tolist()
    return [record.get("width", 0) > record.get("height", 0) for record in records]


def _repeat_factors(cfg: CfgNode, name: str, dataset: MappedDataset) -> NDArray[np.float64] | None:
    """Return how often each record of a training set is drawn in a pass; None = once.

    Raises:
        InputError: for another `DATALOADER.SAMPLER_TRAIN` than the two that are supported.
    """
    keys = cfg.DATALOADER
    threshold, square_root = keys.REPEAT_THRESHOLD, keys.REPEAT_SQRT
    if keys.SAMPLER_TRAIN == "TrainingSampler":
        return None
    if keys.SAMPLER_TRAIN != "RepeatFactorTrainingSampler":
        raise InputError(
            "DATALOADER.SAMPLER_TRAIN must be TrainingSampler or RepeatFactorTrainingSampler, not "
            f"{keys.SAMPLER_TRAIN}"
        )
    if dataset.classes is None:
        return None
    classes: list[Collection[int]] = []
    with read_by(rules_of(cfg)):
        for record in dataset.records:
            try:
                classes.append(dataset.classes(record))
            except BROKEN_ERRORS:
                if not keys.SKIP_BROKEN:
                    raise
                classes.append(())
    factors = repeat_factors(classes, threshold, square_root)
    logger.info(
        "%s: %d of %d images are repeated, at most %.2f times; a pass has %.0f",
        *(name, int((factors > 1).sum()), len(factors), factors.max(), factors.sum()),
    )
    return factors


def _per_dataset(
    values: Sequence[float], names: Sequence[str], key: str, default: float
) -> list[float]:
    if len(values) == 0:
        return [default] * len(names)
    if len(values) != len(names):
        raise InputError(
            f"{key} has {len(values)} numbers, DATASETS.TRAIN {len(names)} names; give one each"
        )
    return list(values)


def _as_list(items: list[Record]) -> list[Record]:
    return items


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    outlive_group_signals()
