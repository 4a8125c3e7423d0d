"""Expression encoders: BERT or CLIP's text tower."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hipie.checkpoint import read_state
from hipie.errors import InputError, cause_of, printable
from hipie.modeling.model_folder import WEIGHT_SUFFIXES
from hipie.modeling.text_encoder.bert import BertTextEncoder
from hipie.modeling.text_encoder.caption import expression_caption

CLIP_PREFIX = "clip:"
RANDOM_PREFIX = "random:"
NUM_MARKERS = 2


class BertExpressionEncoder(BertTextEncoder):
    """Last hidden states of BERT; the token [CLS] summarises the expression."""

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids [B, T] and mask [B, T] -> features [B, T, C] float32."""
        output = self.model(input_ids=ids, attention_mask=mask.long())
        return output.last_hidden_state.float()

    def encode(self, expressions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode expressions; long ones are truncated with a warning.

        Returns:
            Features [B, T, C] and mask [B, T] bool.

        Raises:
            ValueError: for an expression without a word.
        """
        features = self([expression_caption(expression) for expression in expressions])
        return features.hidden, features.mask

    def summary_index(self, mask: Tensor) -> Tensor:
        """[B] index of [CLS]."""
        return torch.zeros(len(mask), dtype=torch.long, device=mask.device)


class ClipExpressionEncoder(nn.Module):
    """CLIP's text transformer without its projection; the end token summarises the expression.

    Args:
        model: an `open_clip.CLIP`, whose image tower is discarded.
        tokenizer: open_clip's tokenizer, expressions -> [B, 77] padded with 0.
        frozen: train no parameter.
        max_tokens: maximum number of tokens of an expression, markers included.
        has_pretrained_weights: False if the weights of `model` are random.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        frozen: bool,
        max_tokens: int,
        has_pretrained_weights: bool = True,
    ) -> None:
        super().__init__()
        self.has_pretrained_weights = has_pretrained_weights
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

    @classmethod
    def from_source(cls, source: str, *, frozen: bool, max_tokens: int) -> ClipExpressionEncoder:
        """Build from "ViT-L-14:<tag or file>", or with random weights from "random:ViT-L-14".

        Raises:
            ValueError: if open_clip is not installed, or has no such model or tag; without a tag;
                or for random weights that would be frozen.
        """
        try:
            import open_clip
            from open_clip.pretrained import download_pretrained
        except ImportError as error:
            raise InputError(
                "CLIP's text tower needs the package open_clip_torch: pip install open_clip_torch"
            ) from error
        random = source.startswith(RANDOM_PREFIX)
        name, _, weights = source.removeprefix(RANDOM_PREFIX).partition(":")
        if name not in open_clip.list_models():
            raise InputError(f'open_clip has no model "{name}" for MODEL.REFERSAM.TEXT.SOURCE')
        if random and frozen:
            raise InputError(
                f'MODEL.REFERSAM.TEXT.SOURCE is "{CLIP_PREFIX}{source}", and TEXT.FROZEN would '
                "freeze its random weights"
            )
        if not random and not weights:
            raise InputError(
                f'MODEL.REFERSAM.TEXT.SOURCE "{CLIP_PREFIX}{source}" names no weights: add a tag '
                f'of open_clip or a file, such as "{CLIP_PREFIX}{name}:openai"; "{CLIP_PREFIX}'
                f'{RANDOM_PREFIX}{name}" builds it with random ones'
            )
        is_file = os.path.isfile(weights) or Path(weights).suffix in WEIGHT_SUFFIXES
        published = open_clip.get_pretrained_cfg(name, weights)
        if weights and not is_file and not published:
            raise InputError(f'CLIP {name} has no weights "{weights}"')
        try:
            model = open_clip.create_model(name)
            file = weights if is_file or not weights else download_pretrained(published)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f'CLIP\'s "{source}" cannot be loaded: {cause_of(error)}') from error
        if not hasattr(model, "token_embedding"):
            raise InputError(f"open_clip's \"{name}\" does not have CLIP's own text tower")
        if file:
            _load_text_tower(model, file)
        tokenizer = open_clip.get_tokenizer(name)
        return cls(
            model,
            tokenizer,
            frozen=frozen,
            max_tokens=max_tokens,
            has_pretrained_weights=bool(file),
        )

    @property
    def width(self) -> int:
        """C, channels of a token's feature."""
        return self.positional_embedding.shape[1]

    def has_external_weights(self) -> bool:
        """Whether checkpoints may omit the weights; never for CLIP."""
        return False

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids [B, T] -> features [B, T, C] float32, with causal attention."""
        length = ids.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.token_embedding(ids) + self.positional_embedding[:length]
            x = self.transformer(x, attn_mask=self.causal[:length, :length])
            return self.ln_final(x).float()

    def encode(self, expressions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode expressions; long ones are truncated with a warning.

        Returns:
            Features [B, T, C] and mask [B, T] bool.

        Raises:
            ValueError: for an expression without a word.
        """
        ids = self._tokenizer([expression_caption(expression).text for expression in expressions])
        lengths = (ids != 0).sum(1)
        for row in torch.nonzero(lengths > self.window).flatten().tolist():
            warnings.warn(
                f'the expression "{printable(expressions[row], 40)}" has '
                f"{int(lengths[row]) - NUM_MARKERS} tokens; "
                f"only the first {self.window - NUM_MARKERS} are used",
                stacklevel=2,
            )
            ids[row, self.window - 1] = ids[row, lengths[row] - 1]
        ids = ids[:, : min(self.window, int(lengths.max()))]
        ids = ids.to(self.positional_embedding.device)
        mask = ids != 0
        return self.encode_tokens(ids, mask), mask

    def summary_index(self, mask: Tensor) -> Tensor:
        """[B] index of the end token."""
        return mask.long().sum(1) - 1


ExpressionEncoder = BertExpressionEncoder | ClipExpressionEncoder


def build_expression_encoder(source: str, *, frozen: bool, max_tokens: int) -> ExpressionEncoder:
    """Build an expression encoder; the arguments are the keys of `MODEL.REFERSAM.TEXT`.

    Raises:
        ValueError: if there is no such encoder, or if `max_tokens` leaves no token for text.
    """
    if max_tokens < NUM_MARKERS + 1:
        raise InputError(
            f"MODEL.REFERSAM.TEXT.MAX_TOKENS must be at least {NUM_MARKERS + 1} (two markers and a "
            f"token), and is {max_tokens}"
        )
    if source.startswith(CLIP_PREFIX):
        return ClipExpressionEncoder.from_source(
            source.removeprefix(CLIP_PREFIX), frozen=frozen, max_tokens=max_tokens
        )
    encoder = BertExpressionEncoder.from_source(source, frozen=frozen)
    encoder.window = min(encoder.window, max_tokens)
    return encoder


def _load_text_tower(model: nn.Module, file: str) -> None:
    """Load the text tower of a file in open_clip's layout.

    Raises:
        ValueError: if a tensor is missing.
    """
    incompatible = model.load_state_dict(read_state(file)["model"], strict=False)
    missing = [name for name in incompatible.missing_keys if not name.startswith("visual.")]
    if missing:
        raise InputError(f'{file}: weights of CLIP\'s text tower are missing: "{missing[0]}"')
