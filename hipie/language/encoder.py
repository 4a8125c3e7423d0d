"""BERT over captions: the words' features, computed once for the same words."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from hipie.language.caption import Caption
from hipie.language.features import TextFeatures
from hipie.language.tokens import PAD, TokenizedCaption, load_tokenizer, minilm_folder, tokenize
from hipie.language.windows import WINDOW, encode_in_windows

KEPT_CAPTIONS = 512


class TextEncoder(nn.Module):
    """A `BertModel` without pooler; the feature of a word piece is its last hidden state.

    Args:
        bert: the model.
        tokenizer: its tokenizer.
        frozen: parameters take no gradient and dropout stays off.
        from_package: the weights come from an installed package, so checkpoints leave them out.
    """

    def __init__(
        self,
        bert: BertModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        frozen: bool = False,
        from_package: bool = False,
    ) -> None:
        super().__init__()
        self.bert = bert
        self.tokenizer = tokenizer
        self.frozen = frozen
        self.from_package = from_package
        self._kept: OrderedDict[Caption, Tensor] = OrderedDict()
        self._tokens: OrderedDict[Caption, TokenizedCaption] = OrderedDict()
        if frozen:
            self.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def from_source(cls, source: str, *, frozen: bool = False) -> TextEncoder:
        """Build from a name.

        Args:
            source: "minilm" (the installed package), "bert-base-uncased" (built from its
                configuration, for checkpoints that hold its weights), a folder, or a hub name.
            frozen: see the class.
        """
        if source == "bert-base-uncased":
            bert = BertModel(BertConfig(), add_pooling_layer=False)
            return cls(bert, load_tokenizer(str(minilm_folder())), frozen=frozen)
        place = str(minilm_folder()) if source == "minilm" else source
        bert = BertModel.from_pretrained(place, add_pooling_layer=False)
        return cls(
            bert, load_tokenizer(place), frozen=frozen, from_package=source == "minilm" and frozen
        )

    @property
    def width(self) -> int:
        """Channels of a word piece."""
        return self.bert.config.hidden_size

    def weights_from_elsewhere(self) -> tuple[str, ...]:
        """Prefixes of state-dict keys that need not be in a checkpoint."""
        return ("bert.",) if self.from_package else ()

    def train(self, mode: bool = True) -> TextEncoder:
        """Set the mode; a frozen encoder always stays in evaluation mode."""
        self._kept.clear()
        super().train(mode and not self.frozen)
        return self

    def _apply(self, *args, **kwargs) -> TextEncoder:
        self._kept.clear()
        return super()._apply(*args, **kwargs)

    def load_state_dict(self, *args, **kwargs):
        """As `nn.Module`, forgetting what was encoded with other weights."""
        self._kept.clear()
        return super().load_state_dict(*args, **kwargs)

    def forward(self, captions: Sequence[Caption]) -> TextFeatures:
        """Encode B captions; equal ones are encoded once, and known ones not again."""
        tokenized = {caption: self._tokenize(caption) for caption in captions}
        if self.training or (torch.is_grad_enabled() and not self.frozen):
            features = self._encode(tokenized)
        else:
            with torch.no_grad():
                features = self._remember(tokenized)
        length = max(len(tokenized[caption].input_ids) for caption in captions)
        device = self.bert.device
        rows, ids = [], torch.full((len(captions), length), PAD)
        mask = torch.zeros(len(captions), length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            one = features[caption]
            rows.append(nn.functional.pad(one, (0, 0, 0, length - len(one))))
            ids[row, : len(one)] = torch.tensor(tokenized[caption].input_ids)
            mask[row, : len(one)] = True
        return TextFeatures(
            hidden=torch.stack(rows),
            mask=mask.to(device),
            input_ids=ids.to(device),
            token_spans=tuple(tokenized[caption].spans for caption in captions),
        )

    def _tokenize(self, caption: Caption) -> TokenizedCaption:
        if caption not in self._tokens:
            limit = WINDOW if len(caption.spans) == 1 else None
            self._tokens[caption] = tokenize(self.tokenizer, caption, limit)
            _bound(self._tokens)
        return self._tokens[caption]

    def _remember(self, tokenized: dict[Caption, TokenizedCaption]) -> dict[Caption, Tensor]:
        new = {c: tokens for c, tokens in tokenized.items() if c not in self._kept}
        known = {c: self._kept[c] for c in tokenized if c in self._kept}
        encoded = self._encode(new)
        self._kept.update(encoded)
        for caption in known:
            self._kept.move_to_end(caption)
        _bound(self._kept)
        return known | encoded

    def _encode(self, tokenized: dict[Caption, TokenizedCaption]) -> dict[Caption, Tensor]:
        """[T, C] of every caption; those that fit a window in one batch."""
        features: dict[Caption, Tensor] = {}
        short = [c for c, tokens in tokenized.items() if len(tokens.input_ids) <= WINDOW]
        if short:
            length = max(len(tokenized[c].input_ids) for c in short)
            ids = torch.full((len(short), length), PAD)
            mask = torch.zeros_like(ids)
            for row, caption in enumerate(short):
                pieces = tokenized[caption].input_ids
                ids[row, : len(pieces)] = torch.tensor(pieces)
                mask[row, : len(pieces)] = 1
            hidden = self._run(ids, mask)
            for row, caption in enumerate(short):
                features[caption] = hidden[row, : len(tokenized[caption].input_ids)]
        for caption in tokenized:
            if caption not in features:
                features[caption] = encode_in_windows(self._run, tokenized[caption].input_ids)
        return features

    def _run(self, ids: Tensor, mask: Tensor) -> Tensor:
        device = self.bert.device
        out = self.bert(input_ids=ids.to(device), attention_mask=mask.to(device))
        return out.last_hidden_state.float()


def _bound(kept: OrderedDict) -> None:
    while len(kept) > KEPT_CAPTIONS:
        kept.popitem(last=False)
