"""Classes of ImageNet that a tag names.

A classifier knows ImageNet's classes, which are synsets of WordNet: "tabby, tabby cat: a cat with a
grey or tawny coat mottled with black". A tag is often more general than they are.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from hipie.errors import InputError, printable
from hipie.modeling.text_encoder.base import TextEncoder
from hipie.modeling.text_encoder.caption import Caption
from hipie.vocabularies.vocabulary import name_key

MIN_SIMILARITY = 0.5
MIN_RELATED = 0.25
"""Lowest similarity of a class that is what the tag says by two definitions ("tick": family:
people)."""
MAX_CLASSES = 5
"""Classes of a tag that the text encoder chooses at most."""
MAX_SENSES = 8
SHOWN_CLASSES = 3
BATCH_SIZE = 32
# What follows the noun of a definition, and nouns that stand for the one after "of".
_END = re.compile(
    r"\b(?:with|having|that|which|who|whose|used|made|from|in|on|for|by|at|of|native|resembling|"
    r"consisting|developed|formerly|trained|reared|groomed|adapted|larger|smaller)\b"
)
_BREED = re.compile(r"^.*\b(?:breeds?|kinds?|variet(?:y|ies)|types?|any) of\b")


@dataclass(frozen=True)
class MatchedClass:
    """A class that a tag names.

    Attributes:
        index: of the class.
        name: its first name.
        similarity: cosine of the embeddings of tag and class; 1 = the same name, or the definition
            says that it is one.
    """

    index: int
    name: str
    similarity: float


class ImageNetClasses:
    """Names and definitions of the classes of a classifier of ImageNet.

    Args:
        num_classes: see `class_descriptions`.
        network: likewise.
    """

    def __init__(self, num_classes: int, network: str) -> None:
        self.descriptions = class_descriptions(num_classes, network)
        parts = [text.partition(": ") for text in self.descriptions]
        self.names = [[name.strip() for name in lemmas.split(",")] for lemmas, _, _ in parts]
        self._nouns = [head_noun(definition) for _, _, definition in parts]
        everything = ImageNetInfo("imagenet-22k").label_descriptions(detailed=True)
        self._senses: dict[str, list[str]] = defaultdict(list)
        for text in dict.fromkeys([*everything, *self.descriptions]):
            for name in text.partition(": ")[0].split(","):
                self._senses[_key(name)].append(text)

    def by_name(self, name: str) -> list[int]:
        """Indices of the classes with a name, or that are one by definition ("whippet": dog)."""
        key = _key(name)
        return [
            index
            for index, (names, noun) in enumerate(zip(self.names, self._nouns, strict=True))
            if key == noun or any(key == _key(other) for other in names)
        ]

    def by_two_definitions(self, name: str) -> list[int]:
        """Indices of the classes whose definition's noun is one, in its first sense.

        A "beagle" is a hound, and a "hound" is a dog.
        """
        key = _key(name)
        return [
            index for index, noun in enumerate(self._nouns) if key == self._noun_of(noun) != noun
        ]

    def senses(self, name: str) -> list[str]:
        """Descriptions of the synsets that have a name."""
        return self._senses.get(_key(name), [])[:MAX_SENSES]

    def _noun_of(self, name: str) -> str:
        senses = self._senses.get(name)
        return head_noun(senses[0].partition(": ")[2]) if senses else ""


def class_descriptions(num_classes: int, network: str) -> list[str]:
    """Return the names and definitions of the classes of a classifier of ImageNet.

    Args:
        num_classes: of the classifier, 1,000 or those of ImageNet's other sets.
        network: its name, for messages.

    Raises:
        InputError: if ImageNet has no set with so many classes.
    """
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        raise InputError(
            f"{network} has {num_classes} classes, and only the names of ImageNet's sets are "
            "known, of 1000, 11221, 11821, 21841, 21842 or 21843 classes"
        )
    info = ImageNetInfo(subset)
    return [info.label_name_to_description(one, detailed=True) for one in info.label_names()]


def match_tags(
    tags: Sequence[Sequence[str]],
    classes: ImageNetClasses,
    encoder: TextEncoder,
    min_similarity: float = MIN_SIMILARITY,
) -> list[list[MatchedClass]]:
    """Find the classes that tags name.

    Those that have a name of the tag or, by their definitions, are one ("dog": most of its breeds).
    Only where there is none, up to five of those whose description is most similar to the tag, or
    to a description of one of its senses, as the text encoder embeds them.

    Args:
        tags: of each its name and synonyms.
        classes: of the classifier.
        encoder: embeds descriptions, as the mean of their tokens.
        min_similarity: lowest cosine of a class.

    Raises:
        InputError: naming the tags without a class, each with the most similar ones.
    """
    matches: list[list[MatchedClass]] = []
    unmatched = []
    embeddings: Tensor | None = None
    for names in tags:
        matched = _match_by_names(names, classes, encoder)
        if not matched:
            if embeddings is None:
                embeddings = embed(classes.descriptions, encoder)
            nearest = _nearest(names, classes, encoder, embeddings)
            matched = [one for one in nearest if one.similarity >= min_similarity]
            if not matched:
                shown = ", ".join(
                    f"{one.name} {one.similarity:.2f}" for one in nearest[:SHOWN_CLASSES]
                )
                unmatched.append(f'"{printable(names[0])}" (nearest: {shown})')
        matches.append(matched)
    if unmatched:
        raise InputError(
            f"no class of the classifier has a similarity of {min_similarity} to the tag "
            f'{", ".join(unmatched)}; name its classes with --classes "TAG: CLASS, CLASS"'
        )
    return matches


def _match_by_names(
    names: Sequence[str], classes: ImageNetClasses, encoder: TextEncoder
) -> list[MatchedClass]:
    """Classes that a tag names without a choice by the text encoder."""
    indices = {index for name in names for index in classes.by_name(name)}
    related = sorted({i for name in names for i in classes.by_two_definitions(name)} - indices)
    if related:
        texts = [classes.descriptions[index] for index in related]
        similarity = (embed(names, encoder) @ embed(texts, encoder).T).amax(0)
        chosen = (similarity >= MIN_RELATED).tolist()
        indices |= {index for index, kept in zip(related, chosen, strict=True) if kept}
    return [MatchedClass(index, classes.names[index][0], 1.0) for index in sorted(indices)]


def _nearest(
    names: Sequence[str], classes: ImageNetClasses, encoder: TextEncoder, embeddings: Tensor
) -> list[MatchedClass]:
    """Classes that are most similar to a tag, best first."""
    queries = [text for name in names for text in (name, *classes.senses(name))]
    values, order = (embed(queries, encoder) @ embeddings.T).amax(0).topk(MAX_CLASSES)
    return [
        MatchedClass(index, classes.names[index][0], value)
        for index, value in zip(order.tolist(), values.tolist(), strict=True)
    ]


def named_classes(tag: str, names: Sequence[str], classes: ImageNetClasses) -> list[MatchedClass]:
    """Return the classes with given names.

    Raises:
        InputError: naming the tag and a name that no class has.
    """
    chosen = []
    for name in names:
        key = name_key(name)
        indices = [
            index
            for index, own in enumerate(classes.names)
            if any(name_key(other) == key for other in own)
        ]
        if not indices:
            raise InputError(
                f'--classes: "{printable(name)}", for the tag "{printable(tag)}", is the name of '
                "no class of the classifier"
            )
        chosen += [MatchedClass(index, classes.names[index][0], 1.0) for index in indices]
    return chosen


@torch.no_grad()
def embed(texts: Sequence[str], encoder: TextEncoder) -> Tensor:
    """Mean of the features of a text's tokens, [N, C] of length 1."""
    rows = []
    for start in range(0, len(texts), BATCH_SIZE):
        part = texts[start : start + BATCH_SIZE]
        captions = [Caption(text, ((0, len(text)),), expression=True) for text in part]
        rows.append(F.normalize(encoder(captions).pooled()[:, 0], dim=1))
    return torch.cat(rows)


def head_noun(definition: str) -> str:
    """Return the noun that a definition of WordNet is about, in singular.

    >>> head_noun("an old breed of tiny short-haired dog with protruding eyes from Mexico")
    'dog'
    """
    text = _BREED.sub("", re.split("[;,(:]", definition.lower(), maxsplit=1)[0])
    words = _END.split(text.strip(), maxsplit=1)[0].split()
    return _singular(words[-1]) if words else ""


def _key(name: str) -> str:
    return _singular(name_key(name))


def _singular(word: str) -> str:
    """Drop the ending of a regular plural."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word
