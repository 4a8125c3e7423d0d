"""Recognition of names that were never trained, and of synonyms, on photographs.

`configs/nano/hipie_nano_photos_unseen.yaml` trains the photo model without the names of
`DATASETS.HELD_OUT_CLASSES`. For every annotated object of the validation sets this program asks

- which name of its set the model gives to the pixels of the object: the one with the largest sum of
  semantic scores. Chance is one over the number of names. The same model with shuffled names is
  prompted with the names of the set, each in the place of another class;
- how well the best of all masks of both decoders fits the object (IoU, whatever its class), and
  what the IoU of the class is among annotated pixels (mIoU over classes);
- the same with synonyms of the trained names in the prompt.

Intervals are Wilson's, 95 %.

    python train_net.py --config-file configs/nano/hipie_nano_photos_unseen.yaml --resume
    python benchmarks/open_vocabulary_photographs.py [--images 20] \
        MODEL.WEIGHTS "output/hipie_nano_photos_unseen/model_final.pth?ema=True"
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from torch import Tensor, nn
from torch.nn import functional

sys.path[0] = str(Path(__file__).parents[1])
from hipie import model_zoo
from hipie.checkpoint import Checkpointer
from hipie.config.loading import check
from hipie.data.build import build_mapped_dataset
from hipie.data.dataset_mappers.annotation_reader import AnnotationReader
from hipie.data.datasets import register_all
from hipie.data.held_out_classes import held_out_indices, vocabulary_of
from hipie.data.label_values import background_index, ignore_label
from hipie.data.records import sample_evenly
from hipie.evaluation.class_agnostic_recall import wilson_interval
from hipie.modeling.meta_arch.postprocess import raw_branch
from hipie.modeling.postprocessing.mask_labelling import classify_masks
from hipie.vocabularies.vocabulary import Vocabulary, name_key

CONFIGURATION = "configs/nano/hipie_nano_photos_unseen.yaml"
SYNONYMS = {
    "cat": "kitten",
    "dog": "puppy",
    "cow": "cattle",
    "sheep": "lamb",
    "person": "human",
    "car": "automobile",
    "road": "street",
    "sidewalk": "footpath",
    "pedestrian": "walker",
    "building": "house",
    "elephant": "tusker",
    "deer": "stag",
    "turtle": "tortoise",
    "sofa": "couch",
    "tv monitor": "television",
    "truck": "lorry",
    "cup": "mug",
    "person trousers": "person slacks",
    "person pants": "person trousers",
    "person purse": "person handbag",
    "person mouth": "person lips",
    "car trunk": "car boot",
    "car front glass": "car windshield",
}
NAMES, SHUFFLED, SYNONYM = "names", "shuffled", "synonyms"
VARIANTS = (NAMES, SHUFFLED, SYNONYM)


@dataclass
class ClassCounts:
    """Counts of one class of a set.

    Attributes:
        objects: annotated objects.
        named: of them, those given the right name, by variant of the prompt.
        mask_iou: sum over objects of the IoU of the best mask.
        intersection: pixels of the class that are labelled so, by variant.
        union: pixels of the class or labelled so, among annotated pixels, by variant.
    """

    objects: int = 0
    mask_iou: float = 0.0
    named: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VARIANTS, 0))
    intersection: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VARIANTS, 0))
    union: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VARIANTS, 0))


def shuffle_names(vocabulary: Vocabulary, seed: int) -> Vocabulary:
    """Return a vocabulary in which every class has the name of another one.

    Args:
        vocabulary: of two classes or more.
        seed: determines the cycle through all classes.
    """
    order = np.random.default_rng(seed).permutation(len(vocabulary.classes))
    names = list(vocabulary.names)
    shuffled = list(vocabulary.classes)
    for here, there in zip(order, np.roll(order, 1), strict=True):
        shuffled[here] = replace(shuffled[here], name=names[there])
    return Vocabulary(tuple(shuffled))


def replace_synonyms(vocabulary: Vocabulary) -> tuple[Vocabulary, dict[int, str]]:
    """Return a vocabulary with the names of `SYNONYMS` replaced, and the synonyms by class.

    A synonym that is the name of another class of the set is not used.
    """
    taken = {name_key(name) for name in vocabulary.names}
    synonyms = {
        index: SYNONYMS[name_key(name)]
        for index, name in enumerate(vocabulary.names)
        if name_key(name) in SYNONYMS and SYNONYMS[name_key(name)] not in taken
    }
    classes = [
        replace(entry, name=synonyms.get(index, entry.name))
        for index, entry in enumerate(vocabulary.classes)
    ]
    return Vocabulary(tuple(classes)), synonyms


def best_mask_ious(logits: Tensor, canvas: tuple[int, int], objects: Tensor) -> Tensor:
    """Compute the IoU of the best mask with every object.

    Args:
        logits: [Q, h, w] of masks on the canvas, at any resolution.
        canvas: (height, width) of the canvas in pixels of the network's image.
        objects: [N, H, W] bool, at the size of the network's image, at the canvas's top left.

    Returns:
        [N].
    """
    height, width = objects.shape[1:]
    upsampled = functional.interpolate(logits[None], canvas, mode="bilinear", align_corners=False)
    masks = (upsampled[0, :, :height, :width] > 0).flatten(1).float()
    truth = objects.flatten(1).float()
    intersection = truth @ masks.t()
    union = truth.sum(1)[:, None] + masks.sum(1)[None] - intersection
    return (intersection / union.clamp(min=1)).max(1).values


def count_pixels(
    counts: Sequence[ClassCounts],
    variant: str,
    predicted: Tensor,
    masks: Tensor,
    classes: Sequence[int],
) -> None:
    """Add the pixels of an image, among those that have an object.

    Args:
        counts: by class.
        variant: of the prompt.
        predicted: [H, W] class of every pixel.
        masks: [N, H, W] bool, objects.
        classes: [N].
    """
    annotated = masks.any(0)
    of_class = {
        index: masks[[i for i, c in enumerate(classes) if c == index]].any(0)
        for index in set(classes)
    }
    for index in {*of_class, *predicted[annotated].unique().tolist()}:
        guess = (predicted == index) & annotated
        truth = of_class.get(index, torch.zeros_like(annotated))
        counts[index].intersection[variant] += int((guess & truth).sum())
        counts[index].union[variant] += int((guess | truth).sum())


@torch.no_grad()
def evaluate_set(
    cfg: CfgNode, model: nn.Module, dataset_name: str, limit: int | None, seed: int
) -> tuple[Vocabulary, list[ClassCounts]]:
    """Count the objects of a set.

    Args:
        cfg: reads INPUT.*.
        model: HIPIE with weights.
        dataset_name: a set of label maps, parts, instances or panoptic maps.
        limit: of images; None = all.
        seed: of the shuffled names.

    Returns:
        The named classes, and their counts.
    """
    metadata = MetadataCatalog.get(dataset_name)
    all_classes = vocabulary_of(dataset_name)
    background = background_index(metadata, all_classes.names)
    named = [i for i in range(len(all_classes.classes)) if i != background]
    vocabulary = Vocabulary(tuple(all_classes.classes[i] for i in named))
    synonyms, _ = replace_synonyms(vocabulary)
    prompts = {
        NAMES: vocabulary,
        SHUFFLED: shuffle_names(vocabulary, seed),
        SYNONYM: synonyms,
    }
    reader = AnnotationReader(
        len(all_classes.classes),
        cfg.INPUT.MIN_PART_AREA,
        ignore_label(metadata),
        part_ignore_label=metadata.get("part_ignore_label"),
    )
    counts = [ClassCounts() for _ in named]
    mapped = build_mapped_dataset(cfg, dataset_name, training=False)
    for record in sample_evenly(list(mapped.records), limit):
        objects = reader.read(record, T.NoOpTransform())
        kept = np.isin(objects.classes, named) & objects.masks.any(axis=(1, 2))
        if not kept.any():
            continue
        masks = torch.from_numpy(objects.masks[kept])
        classes = [named.index(c) for c in objects.classes[kept].tolist()]
        item = mapped.mapper(record)
        item |= {"results": ("sem_seg",), "background": False}
        features = model.encode_images([item])
        for variant, prompt in prompts.items():
            inputs = [{**item, "vocabulary": prompt}]
            output = model.decode(inputs, features)
            (result,) = model.postprocess(inputs, output, [None])
            scores = result["sem_seg"].clamp(min=0)
            predicted, _ = classify_masks(masks, scores)
            for index, guess in zip(classes, predicted.tolist(), strict=True):
                counts[index].named[variant] += guess == index
            count_pixels(counts, variant, scores.argmax(0), masks, classes)
            if variant == NAMES:
                size = item["image"].shape[1:]
                resized = functional.interpolate(masks[None].float(), size, mode="nearest")[0] > 0
                ious = best_mask_ious(*_all_masks(model, output), resized)
                for index, iou in zip(classes, ious.tolist(), strict=True):
                    counts[index].objects += 1
                    counts[index].mask_iou += iou
    return vocabulary, counts


def _all_masks(model: Any, output: Any) -> tuple[Tensor, tuple[int, int]]:
    """Return the mask logits [Q, h, w] of both decoders, and the size of the canvas."""
    logits = [raw_branch(output.things, model.things.mask_head, None).mask_logits[0]]
    if output.stuff is not None:
        logits.append(raw_branch(output.stuff, model.stuff.mask_head, None).mask_logits[0])
    joined = torch.cat(logits)
    return joined, (4 * joined.shape[1], 4 * joined.shape[2])


def summarize(
    counts: Sequence[ClassCounts], classes: Collection[int], variants: Sequence[str]
) -> dict[str, Any] | None:
    """Sum the counts of some classes, in percent; None if they have no object.

    Returns:
        `objects`, `mask_iou`, and by variant `naming`, `low`, `high` and `miou`.
    """
    selected = [counts[index] for index in sorted(classes) if counts[index].objects]
    objects = sum(entry.objects for entry in selected)
    if not objects:
        return None
    summary: dict[str, Any] = {
        "classes": len(selected),
        "objects": objects,
        "mask_iou": 100 * sum(entry.mask_iou for entry in selected) / objects,
    }
    for variant in variants:
        correct = sum(entry.named[variant] for entry in selected)
        low, high = wilson_interval(correct, objects)
        ious = [entry.intersection[variant] / max(entry.union[variant], 1) for entry in selected]
        summary[variant] = {
            "correct": correct,
            "naming": 100 * correct / objects,
            "low": 100 * low,
            "high": 100 * high,
            "miou": 100 * sum(ious) / len(ious),
        }
    return summary


def groups_of(vocabulary: Vocabulary, held_out_names: Sequence[str]) -> dict[str, set[int]]:
    """Return the classes that are held out, trained, and trained with a synonym."""
    held_out = set(held_out_indices(held_out_names, vocabulary))
    trained = set(range(len(vocabulary.classes))) - held_out
    _, synonyms = replace_synonyms(vocabulary)
    return {"held out": held_out, "trained": trained, "synonyms": trained & set(synonyms)}


def tables(results: dict[str, Any]) -> str:
    """Format the results of all sets as two Markdown tables."""
    lines = [
        "| set | classes | objects | named right | chance | shuffled names | best mask IoU | mIoU "
        "| mIoU, shuffled |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in results.items():
        for group in ("held out", "trained"):
            row = entry[group]
            if row is not None:
                cells = [name, f"{row['classes']} {group}", str(row["objects"])]
                cells += [_share(row[NAMES]), f"{entry['chance']:.1f}", _share(row[SHUFFLED])]
                numbers = (row["mask_iou"], row[NAMES]["miou"], row[SHUFFLED]["miou"])
                lines.append("| " + " | ".join([*cells, *(f"{n:.1f}" for n in numbers)]) + " |")
    lines += ["", "| set | classes | objects | by name | by synonym |", "|---|---|---|---|---|"]
    for name, entry in results.items():
        row = entry["synonyms"]
        if row is not None:
            cells = [name, str(row["classes"]), str(row["objects"])]
            lines.append(
                "| " + " | ".join([*cells, _share(row[NAMES]), _share(row[SYNONYM])]) + " |"
            )
    return "\n".join(lines)


def _share(scores: dict[str, float]) -> str:
    return f"{scores['naming']:.1f} ({scores['low']:.1f} to {scores['high']:.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate every set of `DATASETS.TEST` and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default=CONFIGURATION)
    parser.add_argument("--images", type=int, help="of each set; all by default")
    parser.add_argument(
        "--sets",
        nargs="+",
        help="names; by default those of DATASETS.TEST, without those of expressions",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the shuffled names")
    parser.add_argument("--output", default="output/open_vocabulary_photographs.json")
    args, overrides = parser.parse_known_args(arguments)
    if "MODEL.WEIGHTS" not in overrides:
        parser.error("add MODEL.WEIGHTS FILE, the weights of the training without these names")
    cfg = model_zoo.get_config(args.config_file, ["DATALOADER.NUM_WORKERS", 0, *overrides])
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    check(cfg)
    register_all(cfg)
    model = build_model(cfg).eval()
    Checkpointer(model).load(cfg.MODEL.WEIGHTS)
    results: dict[str, Any] = {}
    with_names = [name for name in cfg.DATASETS.TEST if not name.endswith("_refer_val")]
    for name in args.sets or with_names:
        vocabulary, counts = evaluate_set(cfg, model, name, args.images, args.seed)
        groups = groups_of(vocabulary, cfg.DATASETS.HELD_OUT_CLASSES)
        results[name] = {
            "chance": 100 / len(vocabulary.classes),
            **{group: summarize(counts, groups[group], VARIANTS) for group in groups},
            "per_class": {
                entry.name: summarize(counts, {index}, VARIANTS)
                for index, entry in enumerate(vocabulary.classes)
            },
        }
        print(f"{name}: done", file=sys.stderr, flush=True)
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
        Path(args.output).write_text(json.dumps(results, indent=1))
    print(tables(results))


if __name__ == "__main__":
    main()
