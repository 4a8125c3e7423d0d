"""CLIP by name through `open_clip`, from a folder or a file, or with random weights."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import nn

from hipie.open_vocabulary.error import OpenVocabularyError, unknown

RANDOM = "random:"
TINY = "tiny"
QUICK = "-quickgelu"
SCHEMES = ("hf-hub:", "local-dir:")
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
    if model.startswith(RANDOM):
        return _random(model.removeprefix(RANDOM))
    if Path(model).expanduser().is_dir():
        model = f"local-dir:{Path(model).expanduser()}"
    if model.startswith(SCHEMES):
        if weights:
            raise OpenVocabularyError(
                f'"{model}" brings weights of its own, so that "{weights}" cannot be loaded too'
            )
        _require_config(model)
    else:
        model = _with_right_activation(model, weights)
        _require_weights(model, weights)
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


def _random(name: str) -> tuple[nn.Module, Callable[..., Any]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == TINY:
            built = open_clip.CLIP(**_TINY).eval()
            built.visual.image_mean = open_clip.OPENAI_DATASET_MEAN
            built.visual.image_std = open_clip.OPENAI_DATASET_STD
            return built, SimpleTokenizer()
        if name not in open_clip.list_models():
            raise unknown("CLIP model", name, [TINY, *open_clip.list_models()])
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
