"""`hipie show OUTPUT_DIR`: annotation beside prediction for a test set, worst images first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.cli.files import require_writable
from hipie.code_permission import add_import_arguments
from hipie.downloads import add_network_arguments
from hipie.errors import InputError, UsageError, printable_message

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from PIL import Image

    from hipie.evaluation.image_comparison import ImageComparison
    from hipie.predictor import Segmenter
    from hipie.segmentation import Segmentation

DEFAULT_COUNT, COMPARISONS_PER_SHEET = 12, 4
CELL_WIDTH, CELL_HEIGHT = 640, 480
CAPTION_SIZE = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the images of test sets with their annotation and prediction.

    Args:
        arguments: the command line; by default that of the process.

    Returns:
        0, the exit status.

    Raises:
        ValueError, OSError: for input that cannot be used, in one sentence.
    """
    args = _parser().parse_args(arguments)
    for option in ("count", "images"):
        number = getattr(args, option)
        if number is not None and number < 1:
            raise UsageError(f"--{option} must be at least 1, not {number}")
    from detectron2.config import get_cfg

    from hipie.config import add_hipie_config
    from hipie.predictor import Segmenter
    from hipie.registration import import_modules

    cfg = get_cfg()
    add_hipie_config(cfg)
    import_modules(args.imports, cfg)
    options = ["IMPORTS", str(tuple(args.imports)), *args.opts] if args.imports else args.opts
    segmenter = Segmenter.from_pretrained(args.model, args.device, options)
    names = _register(args, segmenter.cfg)
    default = Path(args.model, "show") if Path(args.model).is_dir() else Path("output/show")
    for name in names:
        for file in draw_dataset(segmenter, name, args, args.output or str(default)):
            print(printable_message(str(file)))
    return 0


def draw_dataset(
    segmenter: Segmenter, name: str, args: argparse.Namespace, output: str
) -> list[Path]:
    """Write the sheets of a test set, and the scores of all images that were segmented.

    Args:
        segmenter: the model.
        name: a registered data set.
        args: the command line, with `count`, `images` and `overwrite`.
        output: folder of the files.

    Returns:
        The files.
    """
    from hipie.result_files import write_drawing, write_json
    from hipie.visualizer import contact_sheet

    compared = sorted(compare_images(segmenter, name, args.images), key=lambda one: one[0].score)
    comparisons = [comparison for comparison, _ in compared]
    worst = comparisons[: args.count]
    sheets = range(0, len(worst), COMPARISONS_PER_SHEET)
    names = [f"{name}_{number}.png" for number in range(len(sheets))]
    scores = f"{name}_scores.json"
    folder = require_writable(output, [*names, scores], args, [])
    mean = sum(one.score for one in comparisons) / max(len(comparisons), 1)
    for file, start in zip(names, sheets, strict=True):
        drawings = [
            draw_comparison(comparison, start + position)
            for position, comparison in enumerate(worst[start : start + COMPARISONS_PER_SHEET], 1)
        ]
        title = f"{name}: worst first, of {len(comparisons)} images; mean score {mean:.2f}"
        write_drawing(folder / file, contact_sheet(drawings, title=title))
    content = {
        "data_set": name,
        "mean": mean,
        "images": [{"image": image, "score": one.score} for one, image in compared],
    }
    write_json(folder / scores, content)
    return [folder / file for file in (*names, scores)]


def compare_images(
    segmenter: Segmenter, name: str, images: int | None
) -> Iterator[tuple[ImageComparison, str]]:
    """Segment the images of a test set, and yield comparisons and the names of images or groups.

    Images and masks are reduced to the size at which they are drawn.

    Args:
        segmenter: the model.
        name: a registered data set.
        images: evenly spaced images, or groups, that are segmented; None = all.
    """
    import torch
    from tqdm import tqdm

    from hipie.data.build import build_mapped_dataset
    from hipie.data.records import sample_evenly
    from hipie.evaluation.image_comparison import ImageComparer

    mapped = build_mapped_dataset(segmenter.cfg, name, training=False)
    comparer = ImageComparer(segmenter.cfg, name)
    indices = sample_evenly(range(len(mapped.records)), images)
    for index in tqdm(indices, desc=name, unit="image", disable=None):
        record = mapped.records[index]
        item = comparer.request(mapped.mapper(record))
        with torch.inference_mode():
            (output,) = segmenter.model([item])
        comparison = comparer.compare(item, record, output)
        yield _reduced(comparison), record.get("file_name", comparison.title)


def draw_comparison(comparison: ImageComparison, number: int) -> Image.Image:
    """Draw annotation and prediction of an image side by side, or of a group one above the other.

    Args:
        comparison: of `ImageComparer`.
        number: place in the order.
    """
    from hipie.visualizer import contact_sheet, draw_group

    title = f"{number}. {comparison.title}: {comparison.score:.2f}"
    if len(comparison.truth) > 1:
        return contact_sheet(
            [
                draw_group(comparison.truth, f"{title}: annotation"),
                draw_group(comparison.predicted, f"{title}: prediction"),
            ]
        )
    pair = (comparison.truth[0], comparison.predicted[0])
    images = [_draw(result) for result in pair]
    captions = [
        _caption("annotation", pair[0], images[0].width, scores=False),
        _caption("prediction", pair[1], images[1].width, scores=True),
    ]
    return contact_sheet(images, captions=captions, title=title)


def _draw(result: Segmentation) -> Image.Image:
    """Draw masks and names, without a legend, into a cell of the sheet."""
    import numpy as np
    from PIL import Image

    from hipie.visualizer import draw_labels

    overlay = result.overlay
    painted = Image.fromarray(overlay.canvas)
    factor = min(CELL_WIDTH / painted.width, CELL_HEIGHT / painted.height)
    size = max(1, round(painted.width * factor)), max(1, round(painted.height * factor))
    resized = np.asarray(painted.resize(size, Image.Resampling.LANCZOS))
    return Image.fromarray(draw_labels(resized, overlay, 1.0))


def _caption(kind: str, result: Segmentation, width: int, *, scores: bool) -> str:
    """List the segments of an image in one line that is as wide as the image."""
    from hipie.text_drawing import shorten_text

    shown = [segment for segment in result if segment.mask.any()]
    texts = [f"{one.label} {one.score:.2f}" if scores else one.label for one in shown]
    return shorten_text(f"{kind}: {', '.join(texts) or 'nothing'}", CAPTION_SIZE, width)


def _reduced(comparison: ImageComparison) -> ImageComparison:
    """Return a comparison whose images are no larger than they are drawn, to save memory."""
    from dataclasses import replace

    return replace(
        comparison,
        truth=tuple(map(_reduced_image, comparison.truth)),
        predicted=tuple(map(_reduced_image, comparison.predicted)),
    )


def _reduced_image(result: Segmentation) -> Segmentation:
    from dataclasses import replace

    import cv2
    import numpy as np

    height, width = result.image.shape[:2]
    factor = min(CELL_WIDTH / width, CELL_HEIGHT / height)
    if factor >= 1:
        return result
    size = max(1, round(width * factor)), max(1, round(height * factor))

    def reduce_mask(mask: Any) -> Any:
        small = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        return small >= 0.5

    segments = [replace(one, mask=reduce_mask(one.mask)) for one in result]
    image = cv2.resize(result.image, size, interpolation=cv2.INTER_AREA)
    return replace(result, image=image, segments=segments)


def _register(args: argparse.Namespace, cfg: CfgNode) -> list[str]:
    """Register the data sets of the configuration and of `--data`, and return those to draw.

    Raises:
        InputError: if there is none, or an unknown one.
    """
    from detectron2.data import DatasetCatalog

    from hipie.data.dataset_specification import parse_dataset
    from hipie.data.datasets import register_all
    from hipie.data.datasets.catalog import complete_metadata

    given = [parse_dataset(text, "val") for text in args.data]
    for one in given:
        if one.key:
            cfg.DATASETS[one.key] = [*cfg.DATASETS[one.key], list(one.entry)]
    register_all(cfg)
    names = [one.name for one in given] or list(cfg.DATASETS.TEST)
    if not names:
        raise InputError(f"{args.model} was trained without a test set: name one with --data")
    for name in names:
        if name not in DatasetCatalog:
            raise InputError(
                f'there is no data set "{name}"; --import registers those of a module, and --data '
                "takes NAME=instances.json:images and the like"
            )
        complete_metadata(name)
    return names


def _parser() -> argparse.ArgumentParser:
    from hipie.data.dataset_specification import forms_text

    parser = argparse.ArgumentParser(
        prog="hipie show",
        description="Draw annotation beside prediction for a test set, worst images first.",
        epilog=f"data sets of --data:\n{forms_text()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="OUTPUT_DIR", help="folder of a training, or a name of hipie models list"
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="NAME=FILES",
        help="data set to draw, or a registered name; by default those of DATASETS.TEST",
    )
    parser.add_argument(
        "--count", type=int, default=DEFAULT_COUNT, metavar="N", help="draw the N worst images"
    )
    parser.add_argument(
        "--images", type=int, metavar="N", help="segment N evenly spaced images; by default all"
    )
    parser.add_argument(
        "--output", metavar="FOLDER", help="folder of the sheets; by default OUTPUT_DIR/show"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace files in it that hipie did not write"
    )
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or file that registers data sets; may be repeated",
    )
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ...")
    add_network_arguments(parser)
    add_import_arguments(parser)
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="keys of the configuration and their values, at the end of the command line",
    )
    return parser
