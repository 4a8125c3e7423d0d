"""How the effect of every key of GRSer is observed, see `tests/wiring.py`.

The keys of the model are observed by losses and outputs of a built model, not by what it is built
of: a key that is passed on and not used is found as well.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from grser import GRSer
from grser.build import build_components
from grser.data.dataset import grser_groups
from hipie.data.datasets import register_all
from hipie.errors import InputError
from tests.wiring import WiredNode

EXPRESSION = "the bright square of many that is not on the left"


def behaviour(cfg: CfgNode) -> Any:
    """Losses of a group and of a single image, outputs of both, and the sizes of the batches."""
    cfg = cfg.clone()
    if cfg.MODEL.GRSER.TEXT.SOURCE == "bert-base-uncased":
        cfg.MODEL.GRSER.TEXT.SOURCE = cfg.MODEL.HIPIE.TEXT.SOURCE
    torch.manual_seed(0)
    model = GRSer(**build_components(cfg))
    trained = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    items = [_group(), _single_image()]
    torch.manual_seed(1)
    losses = model.train().losses(items)
    sizes: list[int] = []
    model.lavt.encoder.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    outputs = model.eval()(items)
    return len(trained), trained, losses, outputs, sizes


def groups(cfg: CfgNode) -> Any:
    """Training groups, and a test group with a file that cannot be read."""
    register_all(cfg)
    samples, mapper = _mapped(cfg, "picturebook_train_group", training=True)
    torch.manual_seed(0)
    read = [_read(mapper(sample, (seed,))) for seed, sample in enumerate(samples[:3])]
    samples, mapper = _mapped(cfg, "picturebook_val_group", training=False)
    group = dict(samples[0])
    first, *others = group["images"]
    group["images"] = [{**first, "file_name": "missing.png"}, *others]
    try:
        return read, _read(mapper(group))
    except (InputError, OSError) as error:
        return read, type(error).__name__


def _mapped(cfg: CfgNode, name: str, *, training: bool) -> Any:
    dataset = grser_groups(cfg, name, training)
    return dataset.records, dataset.mapper


def _read(group: dict[str, Any]) -> list[Any]:
    return [(image["image"], image.get("target")) for image in group["images"]]


def _image(index: int, side: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    image = torch.randint(0, 120, (3, side, side), generator=generator).to(torch.uint8)
    target = torch.zeros(side, side, dtype=torch.bool)
    if index % 2 == 0:
        target[8:32, 4 + 4 * index : 28 + 4 * index] = True
        image[:, target] += 120
    return image, target


def _group() -> dict[str, Any]:
    images = [
        {"image": image, "target": target.to(torch.uint8), "height": 32, "width": 40}
        for image, target in map(_image, range(5))
    ]
    return {"images": images, "expression": EXPRESSION, "height": 32, "width": 40}


def _single_image() -> dict[str, Any]:
    image, target = _image(0)
    instances = Instances(tuple(target.shape))
    instances.gt_masks, instances.gt_classes = BitMasks(target[None]), torch.zeros(1).long()
    return {"image": image, "expressions": ["the bright square"], "instances": instances}


_KEYS = "MODEL.GRSER"
_SMALL = (
    *("MODEL.DEVICE", "cpu", f"{_KEYS}.BACKBONE", "swin_nano", f"{_KEYS}.DECODER_WIDTH", 16),
    *(f"{_KEYS}.DECODER_NORM", "BN", f"{_KEYS}.REJECTION_WIDTH", 16, f"{_KEYS}.GROUP_SIZE", 3),
)
_GROUPS = ("PICTUREBOOK.TRAIN_GROUPS", 2, "PICTUREBOOK.VAL_GROUPS", 1, "INPUT.SQUARE_SIZE", 64)

NODES = [
    WiredNode(
        _KEYS,
        behaviour,
        values={
            "BACKBONE": "timm",
            "DECODER_NORM": "FrozenBN",
            "FEATURE_STAGE": 3,
            "HEATMAPS": "pooled",
            "RANKS": "positive",
            "TIES": "order",
            "REJECTION_POOLING": "mean_max",
            "TEXT.SOURCE": "minilm",
            "TEXT.MAX_TOKENS": 8,
            "TEXT.POOLING": "mean",
            "TEXT.ANTI_PREFIX": "not",
            "LOSS.MASK": "bce_dice",
            "NORM_EPS": 10.0,
            "IMAGES_PER_FORWARD": 2,
        },
        options={"": _SMALL, "TEST.SOFT_MASKS": (f"{_KEYS}.TEST.REJECT_NEGATIVES", False)},
        other_nodes=(f"{_KEYS}.TRAIN", f"{_KEYS}.SKIP_BROKEN"),
    ),
    WiredNode(f"{_KEYS}.TRAIN", groups, values={"MAX_POSITIVES": 1}, options={"": _GROUPS}),
    WiredNode(f"{_KEYS}.SKIP_BROKEN", groups, options={"": _GROUPS}),
]
