"""CLIP by name through `open_clip`, from a folder or a file, or with random weights."""

from __future__ import annotations

import pickle
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown

RANDOM = "random:"
TINY = "tiny"
QUICK = "-quickgelu"
SCHEMES = ("hf-hub:", "local-dir:")
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
SECONDS = 5.0
FOLDER_FILE = "open_clip_config.json"
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
    """A CLIP model in evaluation mode, and its tokenizer.

    Args:
        model: a name of `open_clip.list_models()`; a folder with `open_clip_config.json` and its
            weights; `hf-hub:...`; `random:NAME` for random weights, or `random:tiny` for a small
            network that tests can afford. OpenAI's weights were trained with another activation
            than the plain names of open_clip mean: for them `ViT-L-14-336` is
            `ViT-L-14-336-quickgelu`.
        weights: a tag of open_clip ("openai") or a file; "" for folders, the hub and random ones.

    Raises:
        OpenVocabularyError: for an unknown name or tag, with near ones; for weights that cannot
            be fetched or read, or are another model's. Files are read without running what is in
            them.
    """
    model = require_clip(model, weights)
    if model.startswith(RANDOM):
        return _random(model.removeprefix(RANDOM))
    _require_reachable(model, weights)
    try:
        # weights_only: nothing in the file is run.
        built = open_clip.create_model(
            model, pretrained=weights or None, weights_only=True, require_pretrained=True
        )
    except pickle.UnpicklingError as error:
        raise OpenVocabularyError(
            f"{weights or model}: refused, since it holds more than tensors; nothing of it was run"
        ) from error
    except (RuntimeError, OSError, ValueError, KeyError, EOFError) as error:
        raise OpenVocabularyError(
            f"{model}: the weights {weights} could not be loaded ({_first_line(error)})"
        ) from error
    return built.eval(), open_clip.get_tokenizer(model)


def require_clip(model: str, weights: str = "") -> str:
    """Check names without loading anything; see `load_clip`, whose errors these are.

    Returns:
        The model's name as open_clip knows it.
    """
    if model.startswith(RANDOM):
        name = model.removeprefix(RANDOM)
        if name not in (TINY, *open_clip.list_models()):
            raise unknown("CLIP model", name, [TINY, *open_clip.list_models()])
        return model
    if Path(model).expanduser().is_dir():
        model = f"local-dir:{Path(model).expanduser()}"
    if not model.startswith(SCHEMES):
        model = _with_right_activation(model, weights)
        _require_weights(model, weights)
        return model
    if weights:
        raise OpenVocabularyError(
            f'"{model}" brings weights of its own, so that "{weights}" cannot be loaded too'
        )
    _require_config(model)
    return model


def _random(name: str) -> tuple[nn.Module, Callable[..., Any]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == TINY:
            built = open_clip.CLIP(**_TINY).eval()
            built.visual.image_mean = open_clip.OPENAI_DATASET_MEAN
            built.visual.image_std = open_clip.OPENAI_DATASET_STD
            return built, SimpleTokenizer()
        built = open_clip.create_model(name, pretrained_text=False)
    return built.eval(), open_clip.get_tokenizer(name)


def _with_right_activation(model: str, weights: str) -> str:
    model = model.replace("/", "-")
    if model not in open_clip.list_models():
        raise unknown("CLIP model", model, open_clip.list_models(), "nor a folder of that name")
    quick = f"{model}{QUICK}"
    if weights == "openai" and not model.endswith(QUICK) and quick in open_clip.list_models():
        return quick
    return model


def _require_weights(model: str, weights: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights in tags or (weights and Path(weights).is_file()):
        return
    if not weights:
        raise OpenVocabularyError(
            f"CLIP {model} needs weights: one of {', '.join(tags) or 'no known tags'}, or a file"
        )
    raise unknown(f"set of weights of CLIP {model}", weights, tags, "nor a file of that name")


def _require_config(model: str) -> None:
    folder = model.removeprefix("local-dir:")
    if folder != model and not (Path(folder) / FOLDER_FILE).is_file():
        raise OpenVocabularyError(f"{folder}: the folder has no {FOLDER_FILE}, so no CLIP model")


def _require_reachable(model: str, weights: str) -> None:
    """Ask the hub once and briefly; its own client tries for most of a minute."""
    if Path(weights).is_file() or model.startswith("local-dir:"):
        return
    tag = open_clip.get_pretrained_cfg(model, weights) or {}
    repository = (tag.get("hf_hub") or model.removeprefix("hf-hub:")).strip("/")
    if not model.startswith("hf-hub:") and not tag.get("hf_hub"):
        return
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in HUB_FILES):
        return
    said = f"CLIP {model}: the weights {weights} are not on this machine"
    if constants.HF_HUB_OFFLINE:
        raise OpenVocabularyError(f"{said}, and the Hugging Face hub is set to be offline")
    address = f"{constants.ENDPOINT}/{repository}/resolve/main/{HUB_FILES[0]}"
    asked = urllib.request.Request(address, method="HEAD", headers=build_hf_headers())
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS):
            return
    except urllib.error.HTTPError:
        return
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise OpenVocabularyError(
            f"{said}, and the Hugging Face hub cannot be asked for them ({reason}); "
            "name a file or a folder instead"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
