"""Loading of CLIP models by name (`open_clip`), from folders and files, or with random weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from hipie.checkpoint.error import first_line
from hipie.modeling.hub import HubError, check_hub_file
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

RANDOM_PREFIX = "random:"
TINY = "tiny"
QUICKGELU_SUFFIX = "-quickgelu"
HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG_FILE = "open_clip_config.json"
_TINY = {
    "embed_dim": 48,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": 3,
        "width": 64,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


def load_clip(model: str, weights: str = "") -> tuple[nn.Module, Callable[..., Any]]:
    """Load a CLIP model in evaluation mode, and its tokenizer.

    Files are read without executing code in them.

    Args:
        model: a name of `open_clip.list_models()`; a folder with `open_clip_config.json` and its
            weights; `hf-hub:...`; `random:NAME` for random weights, or `random:tiny` for a small
            network for tests. OpenAI's weights were trained with another activation than the plain
            names of open_clip have: with them `ViT-L-14-336` is `ViT-L-14-336-quickgelu`.
        weights: a tag of open_clip ("openai") or a file; "" for folders, the hub and random ones.

    Raises:
        OpenVocabularyError: for an unknown name or tag, with similar ones; for weights that cannot
            be downloaded or read, or belong to another model.
    """
    model = require_clip(model, weights)
    if model.startswith(RANDOM_PREFIX):
        return _load_random(model.removeprefix(RANDOM_PREFIX))
    _check_download(model, weights)
    try:
        # weights_only: no code in the file is executed.
        clip = open_clip.create_model(
            model, pretrained=weights or None, weights_only=True, require_pretrained=True
        )
    except pickle.UnpicklingError as error:
        raise OpenVocabularyError(
            f"{weights or model}: refused, since it contains more than tensors; no code in it was "
            "executed"
        ) from error
    except (RuntimeError, OSError, ValueError, KeyError, EOFError) as error:
        raise OpenVocabularyError(
            f"{model}: the weights {weights} could not be loaded ({first_line(error)})"
        ) from error
    return clip.eval(), open_clip.get_tokenizer(model)


def require_clip(model: str, weights: str = "") -> str:
    """Check the names of a model and its weights without loading them.

    Args:
        model: see `load_clip`.
        weights: likewise.

    Returns:
        The model's name for open_clip.

    Raises:
        OpenVocabularyError: see `load_clip`.
    """
    if model.startswith(RANDOM_PREFIX):
        name = model.removeprefix(RANDOM_PREFIX)
        if name not in (TINY, *open_clip.list_models()):
            raise unknown_name("CLIP model", name, [TINY, *open_clip.list_models()])
        return model
    if Path(model).expanduser().is_dir():
        model = f"{FOLDER_PREFIX}{Path(model).expanduser()}"
    if not model.startswith((HUB_PREFIX, FOLDER_PREFIX)):
        model = _resolve_name(model, weights)
        _check_weights(model, weights)
        return model
    if weights:
        raise OpenVocabularyError(
            f'"{model}" includes weights, so "{weights}" cannot be loaded as well'
        )
    folder = model.removeprefix(FOLDER_PREFIX)
    if folder != model and not (Path(folder) / CONFIG_FILE).is_file():
        raise OpenVocabularyError(f"{folder}: the folder has no {CONFIG_FILE}")
    return model


def _load_random(name: str) -> tuple[nn.Module, Callable[..., Any]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == TINY:
            clip = open_clip.CLIP(**_TINY).eval()
            clip.visual.image_mean = open_clip.OPENAI_DATASET_MEAN
            clip.visual.image_std = open_clip.OPENAI_DATASET_STD
            return clip, SimpleTokenizer()
        clip = open_clip.create_model(name, pretrained_text=False)
    return clip.eval(), open_clip.get_tokenizer(name)


def _resolve_name(model: str, weights: str) -> str:
    """Name for open_clip, with the activation that OpenAI's weights need."""
    model = model.replace("/", "-")
    if model not in open_clip.list_models():
        raise unknown_name(
            "CLIP model", model, open_clip.list_models(), "nor a folder of that name"
        )
    quickgelu = f"{model}{QUICKGELU_SUFFIX}"
    if (
        weights == "openai"
        and not model.endswith(QUICKGELU_SUFFIX)
        and quickgelu in open_clip.list_models()
    ):
        return quickgelu
    return model


def _check_weights(model: str, weights: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights in tags or (weights and Path(weights).is_file()):
        return
    if not weights:
        raise OpenVocabularyError(
            f"CLIP {model} needs weights: one of {', '.join(tags) or 'no known tags'}, or a file"
        )
    raise unknown_name(f"set of weights of CLIP {model}", weights, tags, "nor a file of that name")


def _check_download(model: str, weights: str) -> None:
    """Check that weights on the hub can be downloaded, before open_clip retries for long."""
    if Path(weights).is_file() or model.startswith(FOLDER_PREFIX):
        return
    tag = open_clip.get_pretrained_cfg(model, weights) or {}
    if not model.startswith(HUB_PREFIX) and not tag.get("hf_hub"):
        return
    repository = (tag.get("hf_hub") or model.removeprefix(HUB_PREFIX)).strip("/")
    try:
        check_hub_file(repository, HUB_FILES)
    except HubError as error:
        if error.status is not None:
            return
        raise OpenVocabularyError(
            f"CLIP {model}: the weights {weights} are not on this machine, and {error}; "
            "use a file or a folder instead"
        ) from error
