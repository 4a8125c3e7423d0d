"""Similarities between classes in text features and in image features, of things and of stuff.

HIPIE fuses text and image early for things and late for stuff, since names and appearances of
things are told apart in both modalities while stuff is not. This program measures it on a data set
with semantic maps: a class has a text feature (the text encoder's mean over the tokens of its name)
and an image feature (the backbone's mean over the pixels of the class, averaged over the images).
Both are centred over the classes, as all features share a large part. Printed are the mean cosine
between different classes of a kind, smaller where classes are told apart better, and the
correlation of the two modalities over pairs of classes. Matrices are drawn to similarity.png.

    python benchmarks/text_image_similarity.py
    python benchmarks/text_image_similarity.py --config-file universal/hipie_r50.yaml \
        --weights FILE --dataset coco_2017_val_panoptic_with_sem_seg --images 500
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import Tensor

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie.data.annotation_maps import read_class_map
from hipie.data.build import build_mapped_dataset
from hipie.data.datasets import register_all
from hipie.errors import InputError
from hipie.modeling.meta_arch.hipie import HIPIE
from hipie.modeling.meta_arch.inputs import pad_images
from hipie.modeling.text_encoder.caption import vocabulary_caption
from hipie.predictor import Segmenter
from hipie.vocabularies import Vocabulary

KINDS = ("thing", "stuff")
# Classes that are seen in fewer images are left out.
MIN_IMAGES = 2


@torch.no_grad()
def text_features(model: HIPIE, vocabulary: Vocabulary) -> Tensor:
    """Mean of the text encoder's token features of each class, [K, C]."""
    text = model.text_encoder([vocabulary_caption(vocabulary)])
    return torch.stack([text.hidden[0, list(span)].mean(0) for span in text.token_spans[0]])


def pooled_features(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean feature of every class in one image.

    Args:
        features: [C, h, w].
        labels: [H, W] class of every pixel; other values than 0 to K - 1 are no class.
        num_classes: K.

    Returns:
        [K, C], zero for classes that are not in the image, and [K] bool, which are.
    """
    masks = F.one_hot(labels.long().clamp(0, num_classes), num_classes + 1)[..., :num_classes]
    valid = (labels >= 0) & (labels < num_classes)
    masks = (masks * valid[..., None]).permute(2, 0, 1).float()
    # Share of each cell that a class covers.
    shares = F.adaptive_avg_pool2d(masks, features.shape[-2:]).flatten(1)
    totals = shares.sum(1, keepdim=True)
    pooled = shares @ features.flatten(1).T / totals.clamp(min=1e-6)
    return pooled, totals[:, 0] > 0


@torch.no_grad()
def image_features(
    model: HIPIE, dataset: str, cfg: Any, level: str, images: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Mean features of classes over images, each image counting once.

    Returns:
        [K, C], and [K] the number of images of each class.
    """
    mapped = build_mapped_dataset(cfg, dataset, training=False)
    totals: Tensor | None = None
    counts = torch.zeros(num_classes)
    for record in DatasetCatalog.get(dataset)[:images]:
        if "sem_seg_file_name" not in record:
            raise InputError(f"the data set {dataset} has no semantic maps (sem_seg_file_name)")
        item = mapped.mapper(record)
        pixels, _, (size,) = pad_images(
            [item["image"]],
            model.pixel_mean,
            model.pixel_std,
            model.input_config.divisibility(training=False),
        )
        features = model.backbone(pixels)[level][0].float()
        labels = torch.from_numpy(read_class_map(record["sem_seg_file_name"]).astype("int64"))
        resized = F.interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0]
        canvas = torch.full(pixels.shape[-2:], float(num_classes))
        canvas[: size[0], : size[1]] = resized
        pooled, found = pooled_features(features, canvas, num_classes)
        pooled = F.normalize(pooled, dim=1) * found[:, None]
        totals = pooled if totals is None else totals + pooled
        counts += found
    if totals is None:
        raise InputError(f"the data set {dataset} has no image")
    return totals / counts.clamp(min=1)[:, None], counts


def similarities(features: Tensor) -> Tensor:
    """Cosines [K, K] between features [K, C], which are centred over the K classes."""
    unit = F.normalize(features, dim=1)
    return _cosines(unit - unit.mean(0))


def _cosines(features: Tensor) -> Tensor:
    unit = F.normalize(features, dim=1)
    return unit @ unit.T


def summary(text: Tensor, image: Tensor, kinds: Sequence[str]) -> dict[str, dict[str, float]]:
    """Numbers of each kind of classes.

    Args:
        text: cosines [K, K] of text features.
        image: likewise of image features.
        kinds: "thing" or "stuff", one a class.

    Returns:
        By kind the number of classes, the mean cosine of different classes in text and in image
        features, and the correlation of the two over pairs of classes. A kind of fewer than three
        classes is left out.
    """
    numbers = {}
    for kind in KINDS:
        index = torch.tensor([i for i, one in enumerate(kinds) if one == kind])
        if len(index) < 3:
            continue
        rows, columns = torch.triu_indices(len(index), len(index), 1)
        pairs = [matrix[index][:, index][rows, columns] for matrix in (text, image)]
        numbers[kind] = {
            "classes": len(index),
            "text": float(pairs[0].mean()),
            "image": float(pairs[1].mean()),
            "correlation": float(torch.corrcoef(torch.stack(pairs))[0, 1]),
        }
    return numbers


def draw(file: Path, text: Tensor, image: Tensor, names: Sequence[str], num_things: int) -> None:
    """Draw both matrices; a line separates things, which come first, from stuff."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = 3 + 0.16 * len(names)
    figure = Figure(figsize=(2 * side + 1, side), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, matrix, title in zip(
        figure.subplots(1, 2), (text, image), ("text features", "image features"), strict=True
    ):
        shown = axes.imshow(matrix.numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
        axes.set_title(f"cosine between classes, {title}")
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.axhline(num_things - 0.5, color="black", linewidth=1)
        axes.axvline(num_things - 0.5, color="black", linewidth=1)
        figure.colorbar(shown, ax=axes, shrink=0.8)
    figure.savefig(file, dpi=110)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the program and return the written results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="nano/hipie_nano_picturebook.yaml")
    parser.add_argument("--weights", metavar="FILE", help="default: the configuration's weights")
    parser.add_argument("--dataset", default="picturebook_val_panoptic")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--level", default="", help="output of the backbone; default: the second")
    parser.add_argument("--output", type=Path, default=Path("output/text_image_similarity"))
    parser.add_argument("options", nargs="*", metavar="KEY VALUE", default=[])
    args = parser.parse_args(arguments)
    segmenter = Segmenter.from_config(args.config_file, args.weights, "cpu", args.options)
    model, cfg = segmenter.model, segmenter.cfg
    if not isinstance(model, HIPIE):
        raise InputError(
            f"{args.config_file} is a {type(model).__name__}; the program needs a HIPIE"
        )
    register_all(cfg)
    levels = list(model.in_features)
    level = args.level or levels[min(1, len(levels) - 1)]
    if level not in levels:
        raise InputError(f"--level {level}: the model reads {', '.join(levels)}")
    vocabulary = Vocabulary.from_metadata(MetadataCatalog.get(args.dataset))
    image, counts = image_features(model, args.dataset, cfg, level, args.images, len(vocabulary))
    kinds = ["thing" if thing else "stuff" for thing in vocabulary.is_thing]
    kept = [
        i
        for kind in KINDS
        for i, one in enumerate(kinds)
        if one == kind and counts[i] >= MIN_IMAGES
    ]
    if not kept:
        raise InputError(f"no class of {args.dataset} is in {MIN_IMAGES} of {args.images} images")
    matrices = [
        similarities(features[kept]) for features in (text_features(model, vocabulary), image)
    ]
    kept_kinds = [kinds[i] for i in kept]
    results = {
        "dataset": args.dataset,
        "images": args.images,
        "level": level,
        "kinds": summary(*matrices, kept_kinds),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "similarity.png"
    draw(file, *matrices, [vocabulary.names[i] for i in kept], kept_kinds.count("thing"))
    (args.output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(
        "| classes | number | cosine, text | cosine, image | correlation |\n|---|---|---|---|---|"
    )
    for kind, row in results["kinds"].items():
        cells = f"{row['text']:.3f} | {row['image']:.3f} | {row['correlation']:.3f}"
        print(f"| {kind} | {row['classes']} | {cells} |")
    print(f"drawn to {file}")
    return results


if __name__ == "__main__":
    main()
