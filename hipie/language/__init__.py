"""Kept import path of `hipie.vocabularies.Vocabulary`."""

from hipie.vocabularies import Vocabulary

__all__ = ["Vocabulary"]
