"""Parts and sizes of ReferSAM's interactor and prompter, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

from hipie.errors import InputError
from refersam.modeling.multi_scale_geometry import STRIDES
from refersam.modeling.sam import PATCH_SIZE

KEYS = "MODEL.REFERSAM"


@dataclass(frozen=True)
class InteractionConfig:
    """Parts, learned tokens and numbers of layers; see `MODEL.REFERSAM`.

    Attributes:
        interactor: fuse text and image inside the image encoder, else in the prompter only.
        interactor_text: the interactor has its vision-language fusions; else it exchanges features
            of the ViT and the maps only.
        feature_strides: strides of the maps of the spatial prior, ascending, 16 among them.
        num_interactions: number of interaction blocks.
        num_extra_pairs: further pairs of extractor and fusion in the last interaction block.
        context_tokens: number of learned tokens of the interactor.
        prompter: tokens that query the maps and the text prompt SAM; else the projected feature of
            the expression is SAM's only sparse prompt.
        num_prompt_blocks: number of layers of the prompter.
        sparse_tokens: number of learned tokens of the prompter.
        dense_prompt: give SAM the coarse mask as mask prompt.

    Raises:
        ValueError: for values that exclude each other, with the names of their keys.
    """

    interactor: bool = True
    interactor_text: bool = True
    feature_strides: tuple[int, ...] = STRIDES
    num_interactions: int = 4
    num_extra_pairs: int = 2
    context_tokens: int = 16
    prompter: bool = True
    num_prompt_blocks: int = 2
    sparse_tokens: int = 4
    dense_prompt: bool = True

    def __post_init__(self) -> None:
        strides = tuple(self.feature_strides)
        if PATCH_SIZE not in strides or strides != tuple(s for s in STRIDES if s in strides):
            raise InputError(
                f"{KEYS}.FEATURE_STRIDES is {strides}; it has to be {PATCH_SIZE} with any of "
                f"{', '.join(str(s) for s in STRIDES if s != PATCH_SIZE)}, in ascending order"
            )
        for name in ("num_interactions", "num_prompt_blocks"):
            _check_minimum(name, getattr(self, name), 1)
        for name in ("num_extra_pairs", "context_tokens", "sparse_tokens"):
            _check_minimum(name, getattr(self, name), 0)
        self._check_unused("interactor", ("num_interactions", "num_extra_pairs", "context_tokens"))
        self._check_unused("prompter", ("num_prompt_blocks", "sparse_tokens"))
        if not self.interactor_text and not self.interactor:
            raise InputError(
                f"{KEYS}.INTERACTOR_TEXT is False, but {KEYS}.INTERACTOR is False as well: there "
                "is no interactor from which the text could be left out"
            )
        if not self.interactor_text and self.context_tokens:
            raise InputError(
                f"{KEYS}.CONTEXT_TOKENS is {self.context_tokens}, but {KEYS}.INTERACTOR_TEXT is "
                "False: without text in the interactor it has to be 0"
            )
        if not self.prompter and self.dense_prompt:
            raise InputError(
                f"{KEYS}.DENSE_PROMPT is True, but {KEYS}.PROMPTER is False: only the prompter "
                "predicts the coarse mask"
            )
        if self.prompter and not self.sparse_tokens and not self.dense_prompt:
            raise InputError(
                f"{KEYS}.SPARSE_TOKENS is 0 and {KEYS}.DENSE_PROMPT is False: SAM has no prompt"
            )

    def _check_unused(self, part: str, names: tuple[str, ...]) -> None:
        """Check that keys of a part that is left out have their defaults.

        Raises:
            ValueError: naming both keys.
        """
        for name in names:
            value = getattr(self, name)
            if not getattr(self, part) and value != getattr(type(self), name):
                raise InputError(
                    f"{KEYS}.{name.upper()} is {value}, but {KEYS}.{part.upper()} is False: "
                    f"there is no {part} that has it"
                )

    @property
    def has_maps(self) -> bool:
        """Whether there is a spatial prior; the baseline of SAM alone has none."""
        return self.interactor or self.prompter


def _check_minimum(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise InputError(f"{KEYS}.{name.upper()} is {value}; it has to be at least {minimum}")
