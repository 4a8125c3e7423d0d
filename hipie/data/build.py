"""Loaders of training and test data, from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList, MetadataCatalog
from detectron2.data import build_detection_test_loader as detectron2_test_loader
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from hipie.data.dataset_mappers import ReferringMapper, UniversalMapper
from hipie.data.dataset_mappers.transforms import Jitter
from hipie.data.samplers.training_sampler import BatchSampler, Draw
from hipie.modeling.text_encoder.tokenizer import load_tokenizer, minilm_folder
from hipie.vocabularies.vocabulary import Vocabulary

IGNORE_LABEL = 255
Mapper = Callable[..., dict[str, Any]]

# The evaluators of data sets whose records have expressions.
EXPRESSION_SETS = ("refer", "grefer", "refzom", "group", "cosaliency")


class MappedSets(Dataset):
    """Several data sets, each with its mapper, asked for items by `Draw`."""

    def __init__(self, records: Sequence[Sequence[dict[str, Any]]], mappers: Sequence[Mapper]):
        self._records = [DatasetFromList(list(one), copy=False) for one in records]
        self._mappers = list(mappers)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        record = self._records[draw.dataset][draw.index]
        return self._mappers[draw.dataset](record, draw.seed)

    def __len__(self) -> int:
        return sum(len(one) for one in self._records)


class _Batches:
    """A batch sampler for PyTorch's loader: one process's batches from an iteration on."""

    def __init__(self, sampler: BatchSampler, start: int, rank: int, processes: int) -> None:
        self._arguments = (start, rank, processes)
        self._sampler = sampler
        sampler.share(*self._arguments)

    def __iter__(self) -> Iterator[list[Draw]]:
        return self._sampler.share(*self._arguments)


def build_train_loader(
    cfg: CfgNode,
    start_iteration: int = 0,
    *,
    count_pieces: Callable[[str], int] | None = None,
) -> DataLoader:
    """Endless batches of `cfg.DATASETS.TRAIN`, each of one data set and so of one task.

    Batch t depends on `cfg.SEED` and t only, so a loader that starts at t goes on exactly where
    another stopped. Of every batch this process gets its share.

    Args:
        cfg: reads DATASETS.TRAIN, DATALOADER.{DATASET_RATIO, DATASET_BATCH_SIZE, NUM_WORKERS}, INPUT.*,
            SOLVER.IMS_PER_BATCH, SEED and MODEL.HIPIE.TEXT.*.
        start_iteration: the first batch's number.
        count_pieces: tokens of a text; by default those of the configured text encoder.

    Raises:
        ValueError: naming the key or the data set that does not fit.
    """
    names = cfg.DATASETS.TRAIN
    if not names:
        raise ValueError("DATASETS.TRAIN names no data set")
    data = [_training_data(cfg, name, count_pieces) for name in names]
    records = [of_one for of_one, _ in data]
    ratios = _one_each(cfg.DATALOADER.DATASET_RATIO, names, "DATALOADER.DATASET_RATIO", 1.0)
    sizes = _one_each(
        cfg.DATALOADER.DATASET_BATCH_SIZE,
        names,
        "DATALOADER.DATASET_BATCH_SIZE",
        cfg.SOLVER.IMS_PER_BATCH,
    )
    wide = [[record["width"] > record["height"] for record in one] for one in records]
    sampler = BatchSampler(wide, ratios, [int(size) for size in sizes], cfg.SEED)
    return DataLoader(
        MappedSets(records, [mapper for _, mapper in data]),
        batch_sampler=_Batches(sampler, start_iteration, comm.get_rank(), comm.get_world_size()),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=_as_list,
        worker_init_fn=_one_thread,
    )


def build_test_loader(cfg: CfgNode, name: str) -> DataLoader:
    """One data set, image by image in order, shared out over the processes.

    Args:
        cfg: reads DATALOADER.NUM_WORKERS and INPUT.*.
        name: a registered data set.
    """
    own = architectures_own_data(cfg, name, training=False)
    records, mapper = own or (DatasetCatalog.get(name), build_mapper(cfg, name, training=False))
    return detectron2_test_loader(
        records,
        mapper=mapper,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def architectures_own_data(
    cfg: CfgNode, name: str, *, training: bool
) -> tuple[Sequence[dict[str, Any]], Mapper] | None:
    """Records and mapper from an architecture that reads data sets in a form of its own.

    Such a class has `data_of(cfg, name, training=...)`, which may return None for data sets that it
    reads as everybody does. Records of training need `width` and `height`.
    """
    known = cfg.MODEL.META_ARCHITECTURE
    architecture = META_ARCH_REGISTRY.get(known) if known in META_ARCH_REGISTRY else None
    own = getattr(architecture, "data_of", None)
    return own(cfg, name, training=training) if own else None


def build_mapper(
    cfg: CfgNode,
    name: str,
    *,
    training: bool,
    count_pieces: Callable[[str], int] | None = None,
) -> ReferringMapper | UniversalMapper:
    """The mapper that a data set needs: expressions, or objects of a vocabulary.

    Args:
        cfg: reads INPUT.* and MODEL.HIPIE.TEXT.*.
        name: a registered data set.
        training: whether annotations are wanted.
        count_pieces: see `build_train_loader`.
    """
    metadata = MetadataCatalog.get(name)
    size: dict[str, Any] = {
        "training": training,
        "shortest": cfg.INPUT.MIN_SIZE_TRAIN if training else (cfg.INPUT.MIN_SIZE_TEST,),
        "longest": cfg.INPUT.MAX_SIZE_TRAIN if training else cfg.INPUT.MAX_SIZE_TEST,
        "image_format": cfg.INPUT.FORMAT,
    }
    if metadata.get("evaluator_type") in EXPRESSION_SETS:
        return ReferringMapper(
            expressions=cfg.INPUT.EXPRESSIONS_PER_IMAGE,
            square=cfg.INPUT.SQUARE_SIZE,
            mirror=cfg.INPUT.EXPRESSION_FLIP_PROB,
            any_targets=cfg.INPUT.GENERALIZED_EXPRESSIONS,
            **size,
        )
    vocabulary = metadata.get("vocabulary") or Vocabulary.from_metadata(metadata)
    if not training:
        return UniversalMapper(vocabulary, **size)
    count = count_pieces or _piece_counter(cfg.MODEL.HIPIE.TEXT.SOURCE)
    unseen = set(metadata.get("unseen_classes", ()))
    return UniversalMapper(
        vocabulary,
        pieces=[count(f"{one.name}. ") for one in vocabulary.classes],
        max_pieces=cfg.MODEL.HIPIE.TEXT.MAX_TOKENS,
        candidates=[i for i, one in enumerate(vocabulary.classes) if one.name not in unseen],
        min_part_area=cfg.INPUT.MIN_PART_AREA,
        jitter=_jitter(cfg),
        max_objects=cfg.INPUT.MAX_OBJECTS,
        ignore_label=metadata.get("ignore_label", IGNORE_LABEL),
        **size,
    )


def _jitter(cfg: CfgNode) -> Jitter | None:
    node = cfg.INPUT.LSJ
    if node.PROBABILITY == 0:
        return None
    return Jitter(node.PROBABILITY, node.MIN_SCALE, node.MAX_SCALE, node.SIZE)


def _training_data(
    cfg: CfgNode, name: str, count_pieces: Callable[[str], int] | None
) -> tuple[Sequence[dict[str, Any]], Mapper]:
    own = architectures_own_data(cfg, name, training=True)
    return own or (
        _training_records(name, cfg.INPUT.GENERALIZED_EXPRESSIONS),
        build_mapper(cfg, name, training=True, count_pieces=count_pieces),
    )


def _training_records(name: str, any_targets: bool) -> list[dict[str, Any]]:
    """The records of a data set that show something to learn.

    Args:
        name: a registered data set.
        any_targets: whether it is something to learn that an expression describes nothing.

    Raises:
        ValueError: if there is none.
    """
    kept = [record for record in DatasetCatalog.get(name) if _has_objects(record, any_targets)]
    if not kept:
        raise ValueError(f"no image of the data set {name} has an object to learn from")
    return kept


def _has_objects(record: dict[str, Any], any_targets: bool) -> bool:
    if "expressions" in record:
        return any(any_targets or len(one["targets"]) == 1 for one in record["expressions"])
    if "part_seg_file_name" in record:
        return True
    if "segments_info" not in record and "annotations" not in record:
        return "sem_seg_file_name" in record
    objects = record["segments_info"] if "segments_info" in record else record["annotations"]
    return any(not one.get("iscrowd", 0) for one in objects)


def _one_each(given: Sequence[float], names: Sequence[str], key: str, default: float) -> list:
    if len(given) == 0:
        return [default] * len(names)
    if len(given) != len(names):
        raise ValueError(
            f"{key} has {len(given)} numbers, DATASETS.TRAIN {len(names)} names; give one each"
        )
    return list(given)


def _piece_counter(source: str) -> Callable[[str], int]:
    """Counts tokens with the tokenizer of a text encoder."""
    bundled = source in ("minilm", "bert-base-uncased")
    tokenizer = load_tokenizer(str(minilm_folder()) if bundled else source)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _as_list(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return items


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
