"""Loading of CLIP models by name (`open_clip`), from folders and files, or with random weights.

`open_clip` is imported when a model is loaded: projects that can use CLIP import this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.numpy_archive import check_numpy_archive
from hipie.checkpoint.read import read_state, unwrap_names
from hipie.errors import InputError, cause_of, printable
from hipie.modeling.hub import HubError, check_hub_file
from hipie.modeling.model_folder import find_weights, read_model_config, require_sizes
from hipie.modeling.open_vocabulary.error import OpenVocabularyError, unknown_name

RANDOM_PREFIX = "random:"
TINY = "tiny"
# Entries of OpenAI's files that are no weights, and files that open_clip reads itself.
OPENAI_SETTINGS = ("input_resolution", "context_length", "vocab_size")
# Buffers that older versions and TorchScript store and that are computed now.
TEMPORARY = ("position_ids", "attn_mask")
NUMPY_SUFFIXES = (".npz", ".npy")  # open_clip knows them by these
QUICKGELU_SUFFIX = "-quickgelu"
HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
CONFIG_FILE = "open_clip_config.json"
# Weights that a file may lack besides position embeddings, which are resized.
MAX_UNSTORED = 1_000_000
_NETWORK_ERRORS = (
    RuntimeError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
)
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
_TINY_TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 32,
    "heads": 2,
    "layers": 2,
}
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
    "text_cfg": _TINY_TEXT,
}
# Small networks for tests: a ViT, and the two kinds of convolutional image encoders.
_SMALL = {
    TINY: _TINY,
    f"{TINY}-convnext": {
        "embed_dim": 48,
        "vision_cfg": {
            "timm_model_name": "test_convnext",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "mlp",
            "timm_drop": 0.0,
            "image_size": 64,
        },
        "text_cfg": _TINY_TEXT,
    },
    f"{TINY}-resnet": {
        "embed_dim": 48,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
        "text_cfg": _TINY_TEXT,
    },
}


def load_clip(model: str, weights: str = "") -> tuple[nn.Module, Callable[..., Any]]:
    """Load a CLIP model in evaluation mode, and its tokenizer.

    Files are read without executing code in them.

    Args:
        model: a name of `open_clip.list_models()`; a folder with `open_clip_config.json` and its
            weights; `hf-hub:...`; `random:NAME` for random weights, or `random:tiny`,
            `random:tiny-convnext` or `random:tiny-resnet` for small networks for tests. OpenAI's
            weights were trained with another activation than the plain names of open_clip have:
            with them `ViT-L-14-336` is `ViT-L-14-336-quickgelu`.
        weights: a tag of open_clip ("openai") or a file; "" for folders, the hub and random ones.

    Raises:
        OpenVocabularyError: for an unknown name or tag, with similar ones; for weights that cannot
            be downloaded or read, or belong to another model.
    """
    import open_clip
    from open_clip.pretrained import download_pretrained

    model = require_clip(model, weights)
    if model.startswith(RANDOM_PREFIX):
        return _load_random(model.removeprefix(RANDOM_PREFIX))
    if model.startswith((HUB_PREFIX, FOLDER_PREFIX)):
        _check_download(model, weights)
        return _load_folder(model), open_clip.get_tokenizer(model)
    file = weights
    if not os.path.isfile(weights):
        _check_download(model, weights)
        try:
            file = download_pretrained(open_clip.get_pretrained_cfg(model, weights) or {})
        except (RuntimeError, OSError, ValueError) as error:
            raise _cannot_load(model, weights, error) from error
    if Path(file).suffix in NUMPY_SUFFIXES:
        return _load_arrays(model, file), open_clip.get_tokenizer(model)
    return _load_file(model, file), open_clip.get_tokenizer(model)


def _cannot_load(model: str, weights: str, error: BaseException) -> OpenVocabularyError:
    return OpenVocabularyError(
        f"{model}: the weights {weights} could not be loaded ({cause_of(error)})"
    )


def _load_arrays(name: str, file: str) -> nn.Module:
    """Build a model and load SigLIP's arrays, which NumPy reads without its pickles."""
    import open_clip

    try:
        check_numpy_archive(file)
    except CheckpointError as error:
        raise OpenVocabularyError(str(error)) from error
    try:
        clip = open_clip.create_model(
            name, pretrained=file, weights_only=True, require_pretrained=True
        )
    except _NETWORK_ERRORS as error:
        raise _cannot_load(name, file, error) from error
    return clip.eval()


def _load_folder(model: str) -> nn.Module:
    """Build the model that a folder or a hub repository describes, and load its weights."""
    import open_clip

    config = _read_config(model)
    try:
        file = _folder_weights(model)
    except (RuntimeError, OSError, ValueError) as error:
        raise _cannot_load(model, "", error) from error
    state = _read_weights(file)
    try:
        with torch.device("meta"):
            described = _build_network(config)
        _check_size(model, described, state)
        clip = open_clip.create_model(model, load_weights=False)
    except OpenVocabularyError:
        raise
    except _NETWORK_ERRORS as error:
        raise OpenVocabularyError(
            f"{model}: its {CONFIG_FILE} does not describe a network of open_clip "
            f"({cause_of(error)})"
        ) from error
    return _load_state(clip, model, file, state)


def _folder_weights(model: str) -> str:
    """Return the file of weights of a folder or a hub repository, which is downloaded."""
    from open_clip.pretrained import download_pretrained_from_hf

    if model.startswith(HUB_PREFIX):
        return str(download_pretrained_from_hf(model.removeprefix(HUB_PREFIX)))
    return str(find_weights(model.removeprefix(FOLDER_PREFIX), HUB_FILES))


def _build_network(config: Mapping[str, Any]) -> nn.Module:
    """Build the network of a configuration."""
    import open_clip

    custom_text = config.get("custom_text", False)
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
    network: nn.Module = kind(**{key: config[key] for key in config if key != "custom_text"})
    return network


def _check_size(model: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Check that a network is not much larger than its weights, before it takes memory.

    Raises:
        OpenVocabularyError: with both numbers.
    """
    described = sum(value.numel() for value in network.state_dict().values())
    stored = sum(value.numel() for value in state.values())
    if described > 2 * stored + MAX_UNSTORED:
        raise OpenVocabularyError(
            f"{model}: its {CONFIG_FILE} describes {described:,} weights, and its file has "
            f"{stored:,}"
        )


def _read_weights(file: str) -> dict[str, Tensor]:
    """Read a state dict without running code in the file.

    Raises:
        OpenVocabularyError: if it cannot be read.
    """
    try:
        return unwrap_names(read_state(file)["model"])
    except CheckpointError as error:
        raise OpenVocabularyError(str(error)) from error


def _load_file(name: str, weights: str) -> nn.Module:
    """Build a model and load a file: of open_clip, of OpenAI (TorchScript) or a state dict.

    OpenAI's files say the size of the image among the weights; their activation is QuickGELU.
    """
    import open_clip

    state = _read_weights(weights)
    if any(state.pop(key, None) is not None for key in OPENAI_SETTINGS):
        name = _with_quickgelu(name)
        state = {key: value for key, value in state.items() if key not in OPENAI_SETTINGS}
    clip = open_clip.create_model(name, pretrained_text=False)
    return _load_state(clip, name, weights, state)


def _load_state(clip: nn.Module, name: str, weights: str, state: dict[str, Tensor]) -> nn.Module:
    """Load a state dict into a model, after the conversions that open_clip makes, too."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import (
        convert_to_custom_text_state_dict,
        resize_pos_embed,
        resize_text_pos_embed,
    )

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
    import open_clip

    matches = [other for other in open_clip.list_models() if _has_shapes_of(other, state)]
    if matches:
        return f"{weights}: these are weights of CLIP {matches[0]}, and the model is {name}"
    return f"{weights}: these are not weights of CLIP {name}"


def _has_shapes_of(name: str, state: Mapping[str, Tensor]) -> bool:
    """Whether the shapes of a state dict are those of a ViT of open_clip."""
    import open_clip

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
    import open_clip

    if model.startswith(RANDOM_PREFIX):
        name = model.removeprefix(RANDOM_PREFIX)
        if name not in (*_SMALL, *open_clip.list_models()):
            raise unknown_name("CLIP model", name, [*_SMALL, *open_clip.list_models()])
        return model
    if os.path.isdir(os.path.expanduser(model)):
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
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in _SMALL:
            clip = open_clip.CLIP(**_SMALL[name]).eval()
            clip.visual.image_mean = open_clip.OPENAI_DATASET_MEAN
            clip.visual.image_std = open_clip.OPENAI_DATASET_STD
            return clip, SimpleTokenizer()
        clip = open_clip.create_model(name, pretrained_text=False)
    return clip.eval(), open_clip.get_tokenizer(name)


def _resolve_name(model: str, weights: str) -> str:
    """Name for open_clip, with the activation that OpenAI's weights need."""
    import open_clip

    model = model.replace("/", "-")
    if model not in open_clip.list_models():
        raise unknown_name(
            "CLIP model", model, open_clip.list_models(), "nor a folder of that name"
        )
    return _with_quickgelu(model) if weights == "openai" else model


def _with_quickgelu(model: str) -> str:
    """Name of the same model with the activation of OpenAI's weights, where there is one."""
    import open_clip

    quickgelu = f"{model}{QUICKGELU_SUFFIX}"
    return quickgelu if quickgelu in open_clip.list_models() else model


def _check_weights(model: str, weights: str) -> None:
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(model)
    if weights in tags or (weights and os.path.isfile(weights)):
        return
    if not weights:
        raise OpenVocabularyError(
            f"CLIP {model} needs weights: one of {', '.join(tags) or 'no known tags'}, or a file"
        )
    raise unknown_name(f"set of weights of CLIP {model}", weights, tags, "nor a file of that name")


def _keys_of(settings: type) -> frozenset[str]:
    """Keys of half a network, but for those of transformers' and timm's networks."""
    return frozenset(
        field.name
        for field in fields(settings)
        if not field.name.startswith(("hf_", "timm_")) and field.name != "tokenizer_kwargs"
    )


def _read_config(model: str) -> dict[str, Any]:
    """Read the configuration of a folder or a hub repository, which describes a network only.

    open_clip hands some keys on to transformers and timm, which run the Python of a repository
    that asks for it (`trust_remote_code`), or download other networks.

    Raises:
        OpenVocabularyError: naming the first key that is not of open_clip's own networks, or
            whose number is no size of a network.
    """
    from open_clip.pretrained import download_pretrained_from_hf

    try:
        if model.startswith(HUB_PREFIX):
            repository = model.removeprefix(HUB_PREFIX)
            file = Path(download_pretrained_from_hf(repository, filename=CONFIG_FILE))
        else:
            file = Path(model.removeprefix(FOLDER_PREFIX), CONFIG_FILE)
        network = read_model_config(file).get("model_cfg")
    except InputError as error:
        raise OpenVocabularyError(str(error)) from error
    except (OSError, ValueError) as error:
        raise OpenVocabularyError(
            f"{model}: its {CONFIG_FILE} cannot be read ({cause_of(error)})"
        ) from error
    if not isinstance(network, dict):
        raise OpenVocabularyError(f'{model}: its {CONFIG_FILE} has no "model_cfg"')
    for key in _foreign_keys(network):
        raise OpenVocabularyError(
            f'{model}: its {CONFIG_FILE} has the key "{printable(key)}", which may run code of the '
            "folder or load another network, and is refused"
        )
    try:
        require_sizes(network, f"{model}/{CONFIG_FILE}")
    except InputError as error:
        raise OpenVocabularyError(str(error)) from error
    return network


def _foreign_keys(network: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of a configuration that are not of open_clip's own networks."""
    import open_clip

    for key, value in network.items():
        if key in ("vision_cfg", "text_cfg", "multimodal_cfg"):
            allowed = _keys_of(
                open_clip.CLIPVisionCfg if key == "vision_cfg" else open_clip.CLIPTextCfg
            )
            names = value if isinstance(value, dict) else [key]
            yield from (name for name in names if name not in allowed)
        elif key not in NETWORK_KEYS:
            yield key


def _check_download(model: str, weights: str) -> None:
    """Check that weights on the hub can be downloaded, before open_clip retries for long."""
    import open_clip

    if os.path.isfile(weights) or model.startswith(FOLDER_PREFIX):
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
