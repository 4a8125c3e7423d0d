"""Quality against labelling cost: one training on the picture book for each kind of supervision.

All trainings start from the packaged weights without the layers that only masks use, which are
drawn anew; they differ in DATASETS.SUPERVISION alone. A training with results is not repeated, one
that was interrupted continues from its last checkpoint. Written are OUTPUT/table.md and, with
--figure, the figure.

    python benchmarks/fewer_labels.py --seeds 0 1 2
    python benchmarks/fewer_labels.py --kinds masks boxes --iterations 60 --pages 20
    python benchmarks/fewer_labels.py --no-training --figure docs/images/fewer_labels.png
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode

# benchmarks/hipie.py must not shadow the package hipie.
sys.path[0] = str(Path(__file__).parents[1])
from hipie import model_zoo
from hipie.data.datasets import register_all
from hipie.data.record_list import read_records
from hipie.engine.malloc import keep_freed_memory
from hipie.engine.trainer import Trainer
from hipie.result_files import write_json

TRAIN, TEST = "picturebook_train_panoptic", "picturebook_val_panoptic"
MASK_LAYERS = (
    *("things.mask_features.", "things.mask_head."),
    *("stuff.pixel_decoder.mask_features.", "stuff.mask_embedding."),
)
# Seconds of an object: Lin et al., ECCV 2014 (masks, COCO's polygons), Papadopoulos et al., ICCV
# 2017 (boxes by extreme clicking), Cheng et al., CVPR 2022 (a box and ten points), Bearman et al.,
# ECCV 2016 (scribbles; a tag, of a class and not of an object).
SECONDS = {"masks": 79.2, "points": 16.0, "scribbles": 10.9, "boxes": 7.0, "tags": 1.0}
METRICS = {"PQ": ("panoptic_seg", "PQ"), "AP": ("segm", "AP"), "AP50": ("segm", "AP50")}


def configuration(kind: str, seed: int, options: argparse.Namespace, folder: str = "") -> CfgNode:
    """Return the configuration of a training."""
    cfg = model_zoo.get_config(
        "nano/hipie_nano_picturebook.yaml",
        [
            *("DATASETS.TRAIN", (TRAIN,), "DATASETS.TEST", (TEST,)),
            *("DATASETS.SUPERVISION", [[TRAIN, kind]]),
            *("DATALOADER.DATASET_RATIO", (1.0,), "DATALOADER.DATASET_BATCH_SIZE", (4,)),
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.AMP.ENABLED", False),
            *("MODEL.WEIGHTS", "hipie-nano-picturebook", "MODEL.WEIGHTS_EXCLUDE", MASK_LAYERS),
            *("MODEL.HIPIE.LOSS.WEAK.WARMUP_ITERS", options.iterations // 4),
            *("SOLVER.MAX_ITER", options.iterations, "SOLVER.STEPS", ()),
            *("SOLVER.WARMUP_ITERS", 5, "SOLVER.CHECKPOINT_PERIOD", 20, "SOLVER.BASE_LR", 1e-3),
            *("INPUT.MIN_SIZE_TRAIN", (options.size,), "INPUT.MIN_SIZE_TEST", options.size),
            *("PICTUREBOOK.TRAIN_PAGES", options.pages, "PICTUREBOOK.VAL_PAGES", options.val_pages),
            *("SEED", seed, "OUTPUT_DIR", folder),
        ],
    )
    register_all(cfg)
    return cfg


def run(kind: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train and evaluate one kind, or read the results of an earlier run; percent by metric."""
    folder = Path(options.output, f"{kind}_{seed}")
    file = folder / "metrics_of_kind.json"
    if file.is_file():
        results: dict[str, float] = json.loads(file.read_text())
        return results
    cfg = configuration(kind, seed, options, str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    measured = trainer.train()[TEST]
    results = {name: measured[task][metric] for name, (task, metric) in METRICS.items()}
    write_json(file, results)
    return results


def labels(options: argparse.Namespace) -> dict[str, float]:
    """Count what an annotator labels in the training pages: objects, and classes of images."""
    configuration("masks", 0, options)
    segments = [record["segments_info"] for record in read_records(TRAIN)]
    return {
        "objects": sum(map(len, segments)),
        "tags": sum(len({entry["category_id"] for entry in page}) for page in segments),
    }


def table(rows: Sequence[tuple[str, float, list[dict[str, float]]]]) -> str:
    """Build a Markdown table of kind, hours and metrics: mean over seeds and half their range."""
    lines = [f"| kind | hours | {' | '.join(METRICS)} |", "|---" * (len(METRICS) + 2) + "|"]
    for kind, hours, results in rows:
        cells = []
        for metric in METRICS:
            values = [result[metric] for result in results]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        lines.append(f"| {kind} | {hours:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[tuple[str, float, list[dict[str, float]]]], path: str) -> None:
    """Draw the metrics against the hours of labelling."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.add_subplot()
    rows = sorted(rows, key=lambda row: row[1])
    for metric, marker in zip(("PQ", "AP"), "os", strict=True):
        means = [statistics.mean(result[metric] for result in row[2]) for row in rows]
        axes.plot([row[1] for row in rows], means, marker=marker, label=metric)
        if metric == "PQ":
            for (kind, hours, _), mean in zip(rows, means, strict=True):
                axes.annotate(kind, (hours, mean), (0, 7), textcoords="offset points", ha="center")
    axes.set_xscale("log")
    axes.set_xlabel("labelling of the training pages, hours")
    axes.set_ylabel("percent")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the trainings that have no results, and return the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--pages", type=int, default=200, help="training pages")
    parser.add_argument("--val-pages", type=int, default=60)
    parser.add_argument("--size", type=int, default=192, help="shorter side of images, pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="output/fewer_labels")
    parser.add_argument("--no-training", action="store_true", help="only results that are there")
    parser.add_argument("--figure", default="", metavar="FILE", help="PNG to draw")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    counts = labels(options)
    rows = []
    for kind in options.kinds:
        results = [
            run(kind, seed, options)
            for seed in options.seeds
            if not options.no_training
            or Path(options.output, f"{kind}_{seed}", "metrics_of_kind.json").is_file()
        ]
        count = counts["tags" if kind == "tags" else "objects"]
        if results:
            rows.append((kind, count * SECONDS[kind] / 3600, results))
    text = table(rows)
    Path(options.output).mkdir(parents=True, exist_ok=True)
    Path(options.output, "table.md").write_text(text + "\n", encoding="utf-8")
    if options.figure:
        draw(rows, options.figure)
    print(text)
    return text


if __name__ == "__main__":
    main()
