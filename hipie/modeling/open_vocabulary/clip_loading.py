"""Loading of CLIP models by name (`open_clip`), from folders and files, or with random weights."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.factory import _get_hf_config
from open_clip.model import (
    convert_to_custom_text_state_dict,
    resize_pos_embed,
    resize_text_pos_embed,
)
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.read import read_state, unwrap_names
from hipie.errors import cause_of, printable
from hipie.modeling.hub import HubError, check_hub_file
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

RANDOM_PREFIX = "random:"
TINY = "tiny"
# Entries of OpenAI's files that are no weights, and files that open_clip reads itself.
OPENAI_SETTINGS = ("input_resolution", "context_length", "vocab_size")
# Buffers that older versions and TorchScript store and that are computed now.
TEMPORARY = ("position_ids", "attn_mask")
NUMPY_SUFFIXES = (".npz", ".npy")
QUICKGELU_SUFFIX = "-quickgelu"
HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG_FILE = "open_clip_config.json"
NETWORK_KEYS = frozenset(
    {
        "embed_dim",
        "quick_gelu",
        "init_logit_scale",
        "init_logit_bias",
        "nonscalar_logit_scale",
        "custom_text",
        "output_dict",
        "cast_dtype",
    }
)
# Keys of a network's two halves, but for those of transformers' and timm's networks.
VISION_KEYS, TEXT_KEYS = (
    frozenset(
        field.name
        for field in fields(settings)
        if not field.name.startswith(("hf_", "timm_")) and field.name != "tokenizer_kwargs"
    )
    for settings in (open_clip.CLIPVisionCfg, open_clip.CLIPTextCfg)
)
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
    if weights and Path(weights).is_file() and Path(weights).suffix not in NUMPY_SUFFIXES:
        return _load_file(model, weights), open_clip.get_tokenizer(model)
    _check_download(model, weights)
    if model.startswith((HUB_PREFIX, FOLDER_PREFIX)):
        _check_config(model)
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
            f"{model}: the weights {weights} could not be loaded ({cause_of(error)})"
        ) from error
    return clip.eval(), open_clip.get_tokenizer(model)


def _load_file(name: str, weights: str) -> nn.Module:
    """Build a model and load a file: of open_clip, of OpenAI (TorchScript) or a state dict.

    OpenAI's files say the size of the image among the weights; their activation is QuickGELU.
    """
    try:
        state = unwrap_names(read_state(weights)["model"])
    except CheckpointError as error:
        raise OpenVocabularyError(str(error)) from error
    if any(state.pop(key, None) is not None for key in OPENAI_SETTINGS):
        name = _with_quickgelu(name)
        state = {key: value for key, value in state.items() if key not in OPENAI_SETTINGS}
    clip = open_clip.create_model(name, pretrained_text=False)
    try:
        state = convert_state_dict(clip, state)
    except (LookupError, ValueError, RuntimeError) as error:
        raise OpenVocabularyError(_other_model(name, weights, state)) from error
    own = clip.state_dict()
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = convert_to_custom_text_state_dict(state)
    for key in ("logit_scale", "logit_bias"):
        if key in state and key in own and state[key].numel() == own[key].numel():
            state[key] = state[key].reshape(own[key].shape)
    if "logit_bias" in own:
        state.setdefault("logit_bias", torch.zeros_like(own["logit_bias"]))
    for key in (key for key in list(state) if key.endswith(TEMPORARY) and key not in own):
        del state[key]
    try:
        resize_pos_embed(state, clip)
        resize_text_pos_embed(state, clip)
        clip.load_state_dict(state)
    except (RuntimeError, LookupError, ValueError) as error:
        raise OpenVocabularyError(_other_model(name, weights, state)) from error
    return clip.eval()


def _other_model(name: str, weights: str, state: Mapping[str, Tensor]) -> str:
    """Message about a file of another model, with its name where its shapes tell it."""
    matches = [other for other in open_clip.list_models() if _has_shapes_of(other, state)]
    if matches:
        return f"{weights}: these are weights of CLIP {matches[0]}, and the model is {name}"
    return f"{weights}: these are not weights of CLIP {name}"


def _has_shapes_of(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether the shapes of a state dict are those of a ViT of open_clip."""
    config = open_clip.get_model_config(name) or {}
    vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
    expected: dict[str, tuple[object, ...]] = {
        "visual.conv1.weight": (vision.get("width"), 3, *2 * [vision.get("patch_size")]),
        "text_projection": (text.get("width"), config.get("embed_dim")),
    }
    last_block = f"visual.transformer.resblocks.{vision.get('layers')}.ln_1.weight"
    blocks = {key.rsplit("ln_1", 1)[0] for key in state if key.startswith("visual.transformer")}
    return (
        all(key in state and tuple(state[key].shape) == s for key, s in expected.items())
        and last_block not in state
        and f"visual.transformer.resblocks.{vision['layers'] - 1}." in blocks
    )


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
    return _with_quickgelu(model) if weights == "openai" else model


def _with_quickgelu(model: str) -> str:
    """Name of the same model with the activation of OpenAI's weights, where there is one."""
    quickgelu = f"{model}{QUICKGELU_SUFFIX}"
    return quickgelu if quickgelu in open_clip.list_models() else model


def _check_weights(model: str, weights: str) -> None:
    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights in tags or (weights and Path(weights).is_file()):
        return
    if not weights:
        raise OpenVocabularyError(
            f"CLIP {model} needs weights: one of {', '.join(tags) or 'no known tags'}, or a file"
        )
    raise unknown_name(f"set of weights of CLIP {model}", weights, tags, "nor a file of that name")


def _check_config(model: str) -> None:
    """Check that the configuration of a folder or a hub repository describes a network only.

    open_clip hands some keys on to transformers and timm, which run the Python of a repository
    that asks for it (`trust_remote_code`), or download other networks.

    Raises:
        OpenVocabularyError: naming the first key that is not of open_clip's own networks.
    """
    try:
        if model.startswith(HUB_PREFIX):
            config = _get_hf_config(model.removeprefix(HUB_PREFIX))
        else:
            config = json.loads(Path(model.removeprefix(FOLDER_PREFIX), CONFIG_FILE).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise OpenVocabularyError(
            f"{model}: its {CONFIG_FILE} cannot be read ({cause_of(error)})"
        ) from error
    network = config.get("model_cfg", config) if isinstance(config, dict) else None
    for key in _foreign_keys(network):
        raise OpenVocabularyError(
            f'{model}: its {CONFIG_FILE} has the key "{printable(key)}", which may run code of the '
            "folder or load another network, and is refused"
        )


def _foreign_keys(network: Any) -> Iterator[str]:
    """Yield the keys of a configuration that are not of open_clip's own networks."""
    if not isinstance(network, dict):
        yield "model_cfg"
        return
    for key, value in network.items():
        if key in ("vision_cfg", "text_cfg", "multimodal_cfg"):
            allowed = VISION_KEYS if key == "vision_cfg" else TEXT_KEYS
            yield from (name for name in value if name not in allowed)
        elif key not in NETWORK_KEYS:
            yield key


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
