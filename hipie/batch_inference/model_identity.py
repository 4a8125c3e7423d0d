"""What the results of a model depend on: its configuration and the values of its weights."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

# Keys that do not change results: where files are, and what a training does.
_UNRELATED = (
    *("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.DEVICE", "SOLVER.", "DATASETS.", "DATALOADER."),
    *("TRACKING.", "SEED", "VIS_PERIOD", "CUDNN_BENCHMARK", "VERSION"),
)


def model_identity(model: nn.Module, cfg: CfgNode) -> dict[str, Any]:
    """Return `config`, the keys that results depend on, and `weights`, a hash of the tensors.

    Args:
        model: with its weights.
        cfg: the configuration it was built from.
    """
    return {"config": _flatten(cfg), "weights": weights_hash(model)}


def weights_hash(model: nn.Module) -> str:
    """Return a hash of names, types, shapes and values of a model's parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _flatten(cfg: CfgNode, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in sorted(cfg.items()):
        name = f"{prefix}{key}"
        if isinstance(value, CfgNode):
            flat.update(_flatten(value, f"{name}."))
        elif not name.startswith(_UNRELATED):
            flat[name] = value
    return flat
