"""Expressions to features of tokens: BERT's network or CLIP's text tower."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hipie.checkpoint import read_state
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import expression_caption

CLIP = "clip:"


class BertExpressions(BertTextEncoder):
    """BERT's last hidden states; [CLS] stands for the expression."""

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens [B, T] and mask [B, T] -> [B, T, C] float32; padded places are computed."""
        found = self.model(input_ids=ids, attention_mask=mask.long())
        return found.last_hidden_state.float()

    def encode(self, expressions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Expressions -> features [B, T, C] and mask [B, T] bool; long ones are cut with a warning.

        Raises:
            ValueError: for an expression without a word.
        """
        found = self([expression_caption(expression) for expression in expressions])
        return found.hidden, found.mask

    def summary(self, mask: Tensor) -> Tensor:
        """[B] the place of [CLS]."""
        return torch.zeros(len(mask), dtype=torch.long, device=mask.device)


class ClipExpressions(nn.Module):
    """CLIP's text transformer before its projection; the end marker stands for the expression.

    Args:
        model: an `open_clip.CLIP`, whose image tower is dropped.
        tokenizer: open_clip's, expressions -> [B, 77] padded with 0.
        frozen: no parameter is trained.
        max_tokens: tokens an expression may have, with markers.
    """

    def __init__(
        self, model: nn.Module, tokenizer: object, *, frozen: bool, max_tokens: int
    ) -> None:
        super().__init__()
        self.token_embedding = model.token_embedding
        self.positional_embedding = model.positional_embedding
        self.transformer = model.transformer
        self.ln_final = model.ln_final
        self.register_buffer("causal", model.attn_mask.clone(), persistent=False)
        self._tokenizer = tokenizer
        self.window = min(max_tokens, len(self.positional_embedding))
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)

    def has_external_weights(self) -> bool:
        """Return False: checkpoints hold this module's weights."""
        return False

    @classmethod
    def from_source(cls, source: str, *, frozen: bool, max_tokens: int) -> ClipExpressions:
        """Build from "ViT-L-14" (random weights) or "ViT-L-14:<tag or file>".

        Raises:
            ValueError: if open_clip is not installed, or knows no such model or tag.
        """
        try:
            import open_clip
        except ImportError as error:
            raise ValueError(
                "CLIP's text tower needs the package open_clip_torch: pip install open_clip_torch"
            ) from error
        name, _, weights = source.partition(":")
        if name not in open_clip.list_models():
            raise ValueError(f'open_clip knows no model "{name}" for MODEL.REFERSAM.TEXT.SOURCE')
        from_file = Path(weights).suffix in (".pt", ".pth", ".safetensors")
        try:
            model = open_clip.create_model(name, None if from_file else weights or None)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f'CLIP\'s "{source}" cannot be loaded: {reason}') from error
        if not hasattr(model, "token_embedding"):
            raise ValueError(f"the text tower of open_clip's \"{name}\" is not of CLIP's own kind")
        if from_file:
            _load_text(model, weights)
        tokenizer = open_clip.get_tokenizer(name)
        return cls(model, tokenizer, frozen=frozen, max_tokens=max_tokens)

    @property
    def width(self) -> int:
        """C, the size of a token's feature."""
        return self.positional_embedding.shape[1]

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens [B, T] -> [B, T, C] float32; later pieces do not count for earlier ones."""
        length = ids.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            found = self.token_embedding(ids) + self.positional_embedding[:length]
            found = self.transformer(found, attn_mask=self.causal[:length, :length])
            return self.ln_final(found).float()

    def encode(self, expressions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Expressions -> features [B, T, C] and mask [B, T] bool; long ones are cut with a warning.

        Raises:
            ValueError: for an expression without a word.
        """
        ids = self._tokenizer([expression_caption(expression).text for expression in expressions])
        lengths = (ids != 0).sum(1)
        for row in torch.nonzero(lengths > self.window).flatten().tolist():
            warnings.warn(
                f'the expression "{expressions[row][:40]}..." has {int(lengths[row]) - 2} tokens; '
                f"only the first {self.window - 2} are read",
                stacklevel=2,
            )
            ids[row, self.window - 1] = ids[row, lengths[row] - 1]
        ids = ids[:, : min(self.window, int(lengths.max()))]
        ids = ids.to(self.positional_embedding.device)
        mask = ids != 0
        return self.read(ids, mask), mask

    def summary(self, mask: Tensor) -> Tensor:
        """[B] the place of the end marker."""
        return mask.long().sum(1) - 1


def build_text(source: str, *, frozen: bool, max_tokens: int) -> BertExpressions | ClipExpressions:
    """A text encoder by name; see `MODEL.REFERSAM.TEXT.SOURCE`.

    Raises:
        ValueError: if there is no such encoder, or expressions could have no word.
    """
    if max_tokens < 3:
        raise ValueError(
            f"MODEL.REFERSAM.TEXT.MAX_TOKENS is {max_tokens}; two markers and a word are 3"
        )
    if source.startswith(CLIP):
        return ClipExpressions.from_source(
            source.removeprefix(CLIP), frozen=frozen, max_tokens=max_tokens
        )
    encoder = BertExpressions.from_source(source, frozen=frozen)
    encoder.window = min(encoder.window, max_tokens)
    return encoder


def _load_text(model: nn.Module, file: str) -> None:
    """The text tower's part of a file in open_clip's layout.

    Raises:
        ValueError: if something of it is missing.
    """
    state = read_state(file)["model"]
    found = model.load_state_dict(state, strict=False)
    lacking = [name for name in found.missing_keys if not name.startswith("visual.")]
    if lacking:
        raise ValueError(f'{file}: it lacks weights of CLIP\'s text tower: "{lacking[0]}"')
