"""Steps of learning without labels that are no training.

python -m hipie_unsupervised export-dino --config-file dino_nano_picturebook.yaml \
    --weights output/dino_nano_picturebook/model_final.pth --output output/dino_vit
python -m hipie_unsupervised evaluate --masks output/pseudo_masks.json --image-root FOLDER \
    --dataset picturebook_val_panoptic
python -m hipie_unsupervised merge --annotations output/pseudo_masks.json \
    --predictions output/cutler/inference/pseudo/coco_instances_results.json --output round2.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hipie.code_permission import add_import_arguments
from hipie.downloads import add_network_arguments
from hipie.error_report import run_program
from hipie.errors import InputError, MissingFileError, UsageError, cause_of

PROGRAM = "python -m hipie_unsupervised"
DEFAULT_CONFIG = "dino_nano_picturebook.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the steps.

    Returns:
        The exit status, 0.

    Raises:
        SystemExit: after an error, see `hipie.error_report.one_line_errors`.
    """
    return run_program(PROGRAM, lambda: _run(_parser().parse_args(arguments)))


def _run(args: argparse.Namespace) -> int:
    steps = {"export-dino": export_dino, "evaluate": evaluate, "merge": merge}
    steps[args.step](args)
    return 0


def export_dino(args: argparse.Namespace) -> None:
    """Write the teacher's transformer as a folder of timm.

    Raises:
        InputError: if the configuration is of another architecture.
    """
    from detectron2.modeling import build_model

    from hipie import model_zoo
    from hipie.checkpoint import load_weights
    from hipie_unsupervised.dino import DINO
    from hipie_unsupervised.modeling.vit import export_vit, vit_arguments

    output = _new(args.output)
    cfg = model_zoo.get_config(args.config_file, options=args.opts)
    model = build_model(cfg)
    if not isinstance(model, DINO):
        raise InputError(f"{args.config_file} is of {cfg.MODEL.META_ARCHITECTURE}, not of DINO")
    load_weights(model, args.weights)
    name = cfg.MODEL.UNSUPERVISED.VIT.NAME
    export_vit(model.teacher.network, name, vit_arguments(cfg), output)
    print(f"{output}: {name} of the teacher after {int(model.iteration)} iterations")


def evaluate(args: argparse.Namespace) -> None:
    """Print class-agnostic AP and CorLoc of masks in COCO's format, in percent.

    Raises:
        InputError: naming the file, if it lacks an image of the data set.
    """
    from hipie import model_zoo
    from hipie.data.datasets import register_all
    from hipie_unsupervised.evaluation.object_discovery import ObjectDiscoveryEvaluator

    content = _read_json(args.masks)
    register_all(model_zoo.get_config(args.config_file, options=args.opts))
    evaluator = ObjectDiscoveryEvaluator(args.dataset)
    known = evaluator.add_annotations(content, args.image_root)
    if known < evaluator.num_images:
        raise InputError(
            f"{args.masks} has {known} of the {evaluator.num_images} images of {args.dataset} in "
            f"{args.image_root}"
        )
    for task, scores in evaluator.evaluate().items():
        shown = (
            f"{name} {scores[name]:.2f}" for name in ("CorLoc", "AP", "AP50") if name in scores
        )
        print(f"{task}: {', '.join(shown)}")


def merge(args: argparse.Namespace) -> None:
    """Write the annotations of the next round of self-training."""
    from hipie.evaluation.results_io import write_json
    from hipie_unsupervised.self_training import merge_annotations

    output = _new(args.output)
    annotations, predictions = _read_json(args.annotations), _read_json(args.predictions)
    merged = merge_annotations(annotations, predictions, args.threshold, args.max_iou)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_json(output, merged)
    entries = merged["annotations"]
    predicted = sum("score" in entry for entry in entries)
    print(f"{output}: {predicted} predictions and {len(entries) - predicted} earlier masks")


def _read_json(path: str) -> Any:
    if not Path(path).is_file():
        raise MissingFileError(f"{path}: there is no such file")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as JSON ({cause_of(error)})") from error


def _new(path: str) -> Path:
    if Path(path).exists():
        raise UsageError(f"{path} exists already; name another one")
    return Path(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)

    export = steps.add_parser("export-dino", help="write the teacher's ViT as a folder of timm")
    export.add_argument("--config-file", required=True, help="of the training")
    export.add_argument("--weights", required=True, help="checkpoint of the training")
    export.add_argument("--output", required=True, metavar="DIR", help="the folder to make")

    scores = steps.add_parser("evaluate", help="class-agnostic AP and CorLoc of pseudo masks")
    scores.add_argument("--masks", required=True, metavar="JSON", help="COCO annotations")
    scores.add_argument("--image-root", required=True, help="folder of their file names")
    scores.add_argument("--dataset", required=True, help="registered data set with thing classes")
    scores.add_argument("--config-file", default=DEFAULT_CONFIG, help="that defines the data set")

    joined = steps.add_parser("merge", help="pseudo masks of the next round of self-training")
    joined.add_argument("--annotations", required=True, help="COCO annotations of the round before")
    joined.add_argument("--predictions", required=True, help="COCO results on the same images")
    joined.add_argument("--output", required=True, help="the JSON file to write")
    joined.add_argument("--threshold", type=float, default=0.7, help="least score of predictions")
    joined.add_argument(
        "--max-iou", type=float, default=0.5, help="earlier masks with this IoU are dropped"
    )
    for step in (export, scores):
        add_network_arguments(step)
        add_import_arguments(step)
        step.add_argument("opts", nargs=argparse.REMAINDER, help="configuration KEY VALUE ...")
    return parser


if __name__ == "__main__":
    sys.exit(main())
