"""Class names of a request, checked against the tokenizer of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hipie.logs import get_logger
from hipie.modeling.text_encoder.class_names import check_class_names
from hipie.task_predictors.universal import ClassRequest
from hipie.vocabularies.vocabulary import Names, Parts, Vocabulary

if TYPE_CHECKING:
    from hipie.modeling.meta_arch.base import SegmentationModel

# Vocabularies whose names are not checked again in every call.
MAX_CHECKED_VOCABULARIES = 32

logger = get_logger(__name__)


class ClassNameReader:
    """Reads class names, and checks that the text encoder knows them and can tell them apart.

    Args:
        model: has the tokenizer; without one, names are not checked.
        text_source: name of the text encoder, for messages.
    """

    def __init__(self, model: SegmentationModel, text_source: str) -> None:
        self._model, self._text_source = model, text_source
        self._checked: dict[tuple[str, ...], None] = {}

    def read(
        self,
        things: Names,
        stuff: Names,
        parts: Parts | str | None,
        default: Vocabulary | None = None,
    ) -> ClassRequest:
        """Read the class names of a call.

        Args:
            things: see `Segmenter.segment`.
            stuff: likewise.
            parts: likewise.
            default: the classes of a call without names.

        Raises:
            VocabularyError: see `ClassRequest.from_names` and `check_class_names`.
        """
        if default is not None and not (things or stuff or parts):
            classes = ClassRequest.from_vocabulary(default)
        else:
            classes = ClassRequest.from_names(things, stuff, parts)
        tokenizer, names = self._model.tokenizer, classes.class_names
        if tokenizer is None or names in self._checked:
            return classes
        vocabularies = [classes.vocabulary, classes.part_vocabulary]
        warnings = {
            warning: None
            for vocabulary in vocabularies
            if vocabulary is not None
            for warning in check_class_names(vocabulary, tokenizer, self._text_source)
        }
        for warning in warnings:
            logger.warning("%s", warning)
        self._checked[names] = None
        if len(self._checked) > MAX_CHECKED_VOCABULARIES:
            self._checked.pop(next(iter(self._checked)))
        return classes
