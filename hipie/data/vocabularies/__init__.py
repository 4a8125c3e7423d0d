"""Kept import path of `hipie.vocabularies.load_vocabulary`."""

from hipie.vocabularies import load_vocabulary

__all__ = ["load_vocabulary"]
