"""Write pairs of masks and nouns of captions as COCO annotations (OVSeg).

python -m hipie_proposal_clip.mine --config-file sam_convnext_large.yaml \
    --captions captions_train2017.json --images train2017 --nouns nouns.txt --output mined.json

As in Liang et al., "Open-Vocabulary Semantic Segmentation with Mask-adapted CLIP", CVPR 2023,
section 3.2, every noun of an image's captions is paired with the mask proposal that is most similar
to it.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hipie.code_permission import add_import_arguments
from hipie.downloads import add_network_arguments
from hipie.error_report import run_program
from hipie.errors import InputError, UsageError
from hipie_proposal_clip.caption_nouns import NounFinder

if TYPE_CHECKING:
    from torch import Tensor

    from hipie_proposal_clip.meta_arch import ProposalCLIP

    # Nouns of a caption.
    Nouns = Callable[[str], list[str]]

PROGRAM = "python -m hipie_proposal_clip.mine"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pairs of a file of captions.

    Returns:
        The exit status, 0.

    Raises:
        SystemExit: after an error, see `hipie.error_report.one_line_errors`.
    """
    return run_program(PROGRAM, lambda: _run(_parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> int:
    from detectron2.modeling import build_model

    from hipie import model_zoo
    from hipie.evaluation.results_io import write_json
    from hipie_proposal_clip.meta_arch import ProposalCLIP

    output = Path(args.output)
    if output.exists():
        raise UsageError(f"{output} exists already; name another file")
    if args.captions_per_image < 0:
        raise UsageError("--captions-per-image has to be 0 or larger")
    finder = NounFinder.from_file(args.nouns)
    records = caption_records(args.captions, args.images, args.captions_per_image)
    cfg = model_zoo.get_config(args.config_file, options=args.opts)
    model = build_model(cfg).eval()
    if not isinstance(model, ProposalCLIP):
        raise UsageError(f"{args.config_file}: {type(model).__name__} is not ProposalCLIP")
    annotations = mined_annotations(model, _progress(records), finder, cfg.INPUT.MAX_PIXELS)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, annotations)
    counts = f"{len(annotations['annotations'])} masks of {len(annotations['categories'])} nouns"
    print(f"{output}: {counts} in {len(annotations['images'])} images")
    return 0


def caption_records(path: str, folder: str, captions_per_image: int = 0) -> list[dict[str, Any]]:
    """Read captions in COCO's format.

    Args:
        path: JSON with `images` (`id`, `file_name`) and `annotations` (`image_id`, `caption`).
        folder: of the images.
        captions_per_image: the first captions of an image count; 0: all.

    Returns:
        `id`, `name`, `file_name` and `captions` of every image with a caption.

    Raises:
        InputError: for a file of another format, or an image that is not in the folder.
    """
    from hipie.data.io.json_file import read_json

    content = read_json(path, lists=("images", "annotations"))
    captions: dict[Any, list[str]] = defaultdict(list)
    for position, entry in enumerate(content["annotations"]):
        caption = entry.get("caption") if isinstance(entry, Mapping) else None
        if not isinstance(caption, str) or "image_id" not in entry:
            raise InputError(
                f"{path}: annotations[{position}] needs `image_id` and the text `caption`"
            )
        captions[entry["image_id"]].append(caption)
    records = []
    for position, entry in enumerate(content["images"]):
        name = entry.get("file_name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str) or "id" not in entry:
            raise InputError(f"{path}: images[{position}] needs `id` and the text `file_name`")
        texts = captions.get(entry["id"], [])
        if not texts:
            continue
        file = Path(folder) / name
        if not file.is_file():
            raise InputError(f"{path}: image {entry['id']} is {file}, which is no file")
        texts = texts[:captions_per_image] if captions_per_image else texts
        records.append({"id": entry["id"], "name": name, "file_name": str(file), "captions": texts})
    if not records:
        raise InputError(f"{path}: no image has a caption")
    return records


def mined_annotations(
    model: ProposalCLIP,
    records: Iterable[Mapping[str, Any]],
    nouns_of: Nouns,
    max_pixels: int | None = None,
) -> dict[str, Any]:
    """Return COCO's annotations with the nouns as categories, and one mask for every noun.

    Args:
        model: with mask proposals.
        records: of `caption_records`.
        nouns_of: returns the nouns of a caption.
        max_pixels: larger images are refused.

    Raises:
        InputError: if the model has no mask proposals, or no caption has a noun.
    """
    import numpy as np
    import pycocotools.mask as mask_util
    import torch

    from hipie.data.image_io import read_image

    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for record in records:
        nouns = list(dict.fromkeys(n for caption in record["captions"] for n in nouns_of(caption)))
        if not nouns:
            continue
        pixels = np.ascontiguousarray(read_image(record["file_name"], max_pixels))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        height, width = pixels.shape[:2]
        images.append(
            {"id": record["id"], "file_name": record["name"], "height": height, "width": width}
        )
        masks, best = noun_masks(model, image.to(model.device), nouns)
        for noun, index in zip(nouns, best, strict=False):
            mask = masks[index].cpu().numpy().astype(np.uint8)
            rle = mask_util.encode(np.asfortranarray(mask))
            entry = {
                "id": len(annotations) + 1,
                "image_id": record["id"],
                "category_id": categories.setdefault(noun, len(categories) + 1),
                "iscrowd": 0,
                "area": int(mask_util.area(rle)),
                "bbox": mask_util.toBbox(rle).tolist(),
                "segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")},
            }
            annotations.append(entry)
    if not categories:
        raise InputError("no caption has a noun of the list")
    named = [{"id": number, "name": noun} for noun, number in categories.items()]
    return {"images": images, "annotations": annotations, "categories": named}


def noun_masks(
    model: ProposalCLIP, image: Tensor, nouns: Sequence[str]
) -> tuple[Tensor, list[int]]:
    """Find the mask proposal that is most similar to each noun.

    Args:
        model: with mask proposals.
        image: [3, H, W] RGB in 0..1.
        nouns: K names.

    Returns:
        The proposals [N, H, W] bool, and the indices of K of them; no index without a proposal.

    Raises:
        InputError: if the masks of the model are those of a decoder.
    """
    import torch

    from hipie.vocabularies.vocabulary import Vocabulary

    if model.proposals is None:
        raise InputError("MODEL.PROPOSAL_CLIP.MASKS has to be sam, kmeans or hipie to mine pairs")
    with torch.no_grad():
        masks = model.proposals(image, Vocabulary.from_names(things=list(nouns)))
        masks = masks[masks.flatten(1).any(1)]
        if not len(masks):
            return masks, []
        features = model.mask_features(image, masks)
        text = model.clip.text_features(list(nouns), model.classification.templates)
    similarity = text.to(features) @ features.t()
    return masks, [int(index) for index in similarity.argmax(1)]


def _progress(records: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    from tqdm import tqdm

    progress: Iterable[Mapping[str, Any]] = tqdm(records, "Mining", disable=None)
    return progress


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--config-file", required=True, help="a file of projects/ProposalCLIP")
    parser.add_argument("--captions", required=True, help="captions in COCO's format, a JSON file")
    parser.add_argument("--images", required=True, help="folder of the images")
    parser.add_argument("--nouns", required=True, help="text file of nouns, one a line")
    parser.add_argument("--output", required=True, help="the JSON file to write")
    parser.add_argument(
        "--captions-per-image", type=int, default=1, help="captions that count; 0: all (default: 1)"
    )
    add_network_arguments(parser)
    add_import_arguments(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE ...")
    return parser


if __name__ == "__main__":
    sys.exit(main())
