"""Extension from outside the package: one file each, named on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

ARCHITECTURE = '''
"""HIPIE with a learned scale of the image."""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from hipie.modeling.meta_arch.hipie import HIPIE


def add_config(cfg):
    cfg.MODEL.SCALED = CfgNode({"INITIAL": 1.0})


@META_ARCH_REGISTRY.register()
class ScaledHIPIE(HIPIE):
    @configurable
    def __init__(self, *, initial_scale, **components):
        super().__init__(**components)
        self.scale = nn.Parameter(torch.tensor(initial_scale))

    @classmethod
    def from_config(cls, cfg):
        return {**super().from_config(cfg), "initial_scale": cfg.MODEL.SCALED.INITIAL}

    @classmethod
    def evaluator(cls, cfg, dataset_name):
        return "segment_count"

    def parameters_without_weight_decay(self):
        return {"scale"}

    def losses(self, batched_inputs):
        scaled = [{**item, "image": item["image"] * self.scale} for item in batched_inputs]
        return super().losses(scaled)
'''

EVALUATOR = '''
"""Number of segments of the panoptic map."""

from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation import EVALUATOR_REGISTRY


class SegmentCount(DatasetEvaluator):
    protocol = "segments an image"

    def reset(self):
        self.counts = []

    def process(self, inputs, outputs):
        self.counts += [len(output["panoptic_seg"][1]) for output in outputs]

    def evaluate(self):
        return {"count": {"images": float(len(self.counts)), "segments": float(sum(self.counts))}}


@EVALUATOR_REGISTRY.register()
def segment_count(cfg, dataset_name, output_folder):
    return SegmentCount()
'''

TEXT_ENCODER = '''
"""One trained vector per token."""

import torch
from torch import nn

from hipie.modeling.text_encoder import TEXT_ENCODER_REGISTRY, TextEncoder, load_tokenizer
from hipie.modeling.text_encoder.tokenizer import tokenize
from hipie.structures import TextFeatures


@TEXT_ENCODER_REGISTRY.register()
class TokenEmbedding(TextEncoder):
    def __init__(self, cfg):
        super().__init__()
        self._tokenizer = load_tokenizer("minilm")
        self.embedding = nn.Embedding(len(self._tokenizer), self.width)

    @property
    def width(self):
        return 8

    @property
    def tokenizer(self):
        return self._tokenizer

    def forward(self, captions):
        tokens = [tokenize(self._tokenizer, caption) for caption in captions]
        ids = nn.utils.rnn.pad_sequence([torch.tensor(one.ids) for one in tokens], True)
        ids = ids.to(self.embedding.weight.device)
        spans = tuple(one.spans for one in tokens)
        return TextFeatures(self.embedding(ids), ids != 0, ids, spans)
'''

DATASET = '''
"""Four images with a coloured square, and a mapper of their own records."""

from pathlib import Path

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from hipie.data.build import DATASET_MAPPER_REGISTRY, MappedDataset, universal

FOLDER = Path(__file__).parent


def load_squares():
    records = []
    for number in range(4):
        labels = np.zeros((64, 96), np.uint8)
        labels[8 + number : 40, 10:50] = 1
        pixels = np.where(labels[..., None], (220, 40, 40), (40, 120, 220)).astype(np.uint8)
        Image.fromarray(pixels).save(FOLDER / f"{number}.png")
        Image.fromarray(labels).save(FOLDER / f"{number}_labels.png")
        records.append({"square": number})
    return records


@DATASET_MAPPER_REGISTRY.register()
def squares(cfg, dataset_name, training):
    records = [
        {
            "file_name": str(FOLDER / f"{record['square']}.png"),
            "sem_seg_file_name": str(FOLDER / f"{record['square']}_labels.png"),
        }
        for record in DatasetCatalog.get(dataset_name)
    ]
    DatasetCatalog.register("squares_as_label_maps", lambda: records)
    MetadataCatalog.get("squares_as_label_maps").set(
        thing_classes=["square"],
        stuff_classes=["background", "square"],
        thing_dataset_id_to_contiguous_id={1: 1},
    )
    try:
        return universal(cfg, "squares_as_label_maps", training)
    finally:
        DatasetCatalog.remove("squares_as_label_maps")
        MetadataCatalog.remove("squares_as_label_maps")


DatasetCatalog.register("coloured_squares", load_squares)
MetadataCatalog.get("coloured_squares").set(
    stuff_classes=["background", "square"], task="squares", evaluator_type="segment_count"
)
'''

LOSS = '''
"""L1 distance of box centers."""

from hipie.modeling.criterion.losses import LOSS_REGISTRY


@LOSS_REGISTRY.register_term("center", weight_key="CENTER", group="box")
def center_loss(matched):
    boxes, targets = matched.paired_boxes
    return (boxes[:, :2] - targets[:, :2]).abs().sum()
'''

FILES = {
    "own_architecture": ARCHITECTURE,
    "own_evaluator": EVALUATOR,
    "own_text_encoder": TEXT_ENCODER,
    "own_dataset": DATASET,
    "own_loss": LOSS,
}
CONFIG = """
_BASE_: "{base}"
IMPORTS: ("own_evaluator", "own_dataset.py")
MODEL:
  META_ARCHITECTURE: "ScaledHIPIE"
  SCALED:
    INITIAL: 0.9
  HIPIE:
    TEXT:
      ENCODER: "TokenEmbedding"
    LOSS:
      THING_TERMS: ("class_loss", "box_l1_loss", "giou_loss", "center_loss")
      THING_WEIGHTS:
        CENTER: 3.0
DATASETS:
  TRAIN: ("coloured_squares",)
  TEST: ("coloured_squares",)
DATALOADER:
  DATASET_BATCH_SIZE: ()
SOLVER:
  MAX_ITER: 2
OUTPUT_DIR: "output"
"""


def test_one_file_each_adds_an_architecture_an_evaluator_a_text_encoder_a_data_set_and_a_loss(
    tmp_path: Path,
) -> None:
    for name, source in FILES.items():
        (tmp_path / f"{name}.py").write_text(source)
    (tmp_path / "own.yaml").write_text(CONFIG.format(base=ROOT / "tests/tiny.yaml"))
    imports = ("own_architecture", "own_text_encoder", "own_loss.py")
    permitted = ("own_evaluator", "own_dataset.py")  # the file names them, too
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train_net.py"),
            *("--config-file", "own.yaml"),
            *(part for name in (*imports, *permitted) for part in ("--import", name)),
        ],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = json.loads((tmp_path / "output/results.json").read_text())
    assert results == {"coloured_squares": {"count": results["coloured_squares"]["count"]}}
    assert results["coloured_squares"]["count"]["images"] == 4
    lines = (tmp_path / "output/metrics.json").read_text().splitlines()
    metrics = {key: value for line in lines for key, value in json.loads(line).items()}
    assert metrics["loss_center"] > 0 and metrics["loss_center_0"] > 0
    assert "loss_dice" not in metrics and "loss_dice_maskdino" in metrics
    table = json.loads((tmp_path / "output/table.json").read_text())
    assert [row["protocol"] for row in table] == ["segments an image"]
