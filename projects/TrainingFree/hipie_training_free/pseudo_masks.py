"""Write MaskCut's masks of a data set as COCO annotations of the single class "object".

python -m hipie_training_free.pseudo_masks --config-file maskcut_dino_s16.yaml \
    --dataset picturebook_train_panoptic --output output/pseudo_masks.json
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.code_permission import add_import_arguments
from hipie.downloads import add_network_arguments
from hipie.error_report import run_program
from hipie.errors import InputError, UsageError

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from numpy.typing import NDArray
    from torch import Tensor

    # Features [P, C] of an image [3, H, W] in 0..1, and their grid.
    PatchEncoder = Callable[[Tensor], tuple[Tensor, tuple[int, int]]]

PROGRAM = "python -m hipie_training_free.pseudo_masks"
CATEGORY = {"id": 1, "name": "object"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pseudo masks of a data set.

    Returns:
        The exit status, 0.

    Raises:
        SystemExit: after an error, see `hipie.error_report.one_line_errors`.
    """
    return run_program(PROGRAM, lambda: _run(_parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> int:
    from hipie import model_zoo
    from hipie.data.datasets import register_all
    from hipie.data.io.reading_rules import read_by, rules_of
    from hipie.data.record_list import read_records
    from hipie.evaluation.results_io import write_json

    output = Path(args.output)
    if output.exists():
        raise UsageError(f"{output} exists already; name another file")
    cfg = model_zoo.get_config(args.config_file, options=args.opts)
    register_all(cfg)
    encode = patch_encoder(cfg)
    records: Sequence[dict[str, Any]] = read_records(args.dataset)
    if args.images:
        records = records[: args.images]
    with read_by(rules_of(cfg)):
        annotations = pseudo_annotations(cfg, encode, _progress(records))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, annotations)
    counts = f"{len(annotations['annotations'])} masks of {len(annotations['images'])} images"
    print(f"{output}: {counts}, whose files are in {image_root(records)}")
    return 0


def pseudo_annotations(
    cfg: CfgNode, encode: PatchEncoder, records: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """Return COCO's annotations of all images, with the single category "object".

    Args:
        cfg: reads MODEL.TRAINING_FREE.{MASKCUT, PAMR}.
        encode: of `patch_encoder`.
        records: with `file_name`, `height` and `width`.
    """
    import numpy as np
    import pycocotools.mask as mask_util
    import torch

    from hipie.data.image_io import read_record_image

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    names: list[str] = []
    for number, record in enumerate(records, 1):
        pixels = np.ascontiguousarray(read_record_image(record, cfg.INPUT.MAX_PIXELS))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        height, width = pixels.shape[:2]
        names.append(os.path.abspath(record["file_name"]))
        images.append({"id": number, "height": height, "width": width})
        for mask in object_masks(cfg, encode, image):
            rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": CATEGORY["id"],
                "iscrowd": 0,
                "area": int(mask_util.area(rle)),
                "bbox": mask_util.toBbox(rle).tolist(),
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
            }
            annotations.append(entry)
    root = _common_folder(names)
    for entry, name in zip(images, names, strict=True):
        entry["file_name"] = os.path.relpath(name, root)
    return {"images": images, "annotations": annotations, "categories": [CATEGORY]}


def object_masks(cfg: CfgNode, encode: PatchEncoder, image: Tensor) -> list[NDArray[Any]]:
    """Return MaskCut's masks [H, W] bool of an image, refined as `MASKCUT.REFINEMENT` says.

    Args:
        cfg: reads MODEL.TRAINING_FREE.{MASKCUT, PAMR}.
        encode: of `patch_encoder`.
        image: [3, H, W] RGB in 0..1.
    """
    from hipie.refinement import PAMRConfig
    from hipie_training_free.modeling.maskcut import mask_cuts, refined_mask

    keys = cfg.MODEL.TRAINING_FREE
    features, grid = encode(image)
    settings = keys.MASKCUT
    cuts = mask_cuts(features, grid, settings.OBJECTS, settings.THRESHOLD, settings.WEAK)
    pamr = PAMRConfig(keys.PAMR.STEPS, tuple(keys.PAMR.DILATIONS))
    refined = (refined_mask(cut.mask, image, settings.REFINEMENT, pamr) for cut in cuts)
    return [mask for mask in refined if mask is not None and mask.any()]


def patch_encoder(cfg: CfgNode) -> PatchEncoder:
    """Build the network whose features are cut: DINO, or an output of a Detectron2 backbone.

    Args:
        cfg: reads MODEL.TRAINING_FREE.{MASKCUT.FEATURES, DINO, SIZE}, and with a name in FEATURES
            MODEL.BACKBONE and PIXEL_MEAN, PIXEL_STD.

    Raises:
        InputError: if the backbone has no output of that name.
    """
    import torch
    import torch.nn.functional as F
    from detectron2.modeling import build_backbone

    from hipie_training_free.meta_arch import round_up_to_patches
    from hipie_training_free.modeling.dino import Dino

    keys = cfg.MODEL.TRAINING_FREE
    name = keys.MASKCUT.FEATURES
    if not name:
        dino = Dino.from_source(keys.DINO.MODEL, keys.DINO.WEIGHTS)

        def encode_by_dino(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
            size = round_up_to_patches(_size(image), dino.patch_size, keys.SIZE)
            features = dino.extract_features(image, size)
            return features.keys, features.grid

        return encode_by_dino
    backbone = build_backbone(cfg).eval()
    if name not in backbone.output_shape():
        raise InputError(
            f"MODEL.TRAINING_FREE.MASKCUT.FEATURES is {name}, and {cfg.MODEL.BACKBONE.NAME} has "
            f"{', '.join(backbone.output_shape())}"
        )
    mean, std = (
        torch.tensor(values).view(3, 1, 1) / 255
        for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
    )

    @torch.no_grad()
    def encode_by_backbone(image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        divisor = max(backbone.size_divisibility, 1)
        size = round_up_to_patches(_size(image), divisor, keys.SIZE)
        pixels = F.interpolate(((image - mean) / std)[None], size=size, mode="bilinear")
        features = backbone(pixels)[name][0]
        return features.flatten(1).t(), _size(features)

    return encode_by_backbone


def image_root(records: Sequence[dict[str, Any]]) -> str:
    """Folder to which the file names of the annotations are relative."""
    return _common_folder([os.path.abspath(record["file_name"]) for record in records])


def _common_folder(names: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(name) for name in names]) if names else ""


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _progress(records: Sequence[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    from tqdm import tqdm

    progress: Iterable[dict[str, Any]] = tqdm(records, "MaskCut", disable=None)
    return progress


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--config-file", required=True, help="a file of projects/TrainingFree")
    parser.add_argument("--dataset", required=True, help="a registered data set; its images only")
    parser.add_argument("--output", required=True, help="the JSON file to write")
    parser.add_argument("--images", type=int, default=0, help="first images only; 0: all")
    add_network_arguments(parser)
    add_import_arguments(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE ...")
    return parser


if __name__ == "__main__":
    sys.exit(main())
