"""TAS: scores of masks for an expression by image, caption and negative texts, and positions.

Suo, Zhu, Yang, "Text Augmented Spatial-aware Zero-shot Referring Image Segmentation", Findings of
EMNLP 2023, sections 3.2 to 3.4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie_training_free.modeling.global_local_clip import PHRASE_END, target_phrase

CROPS_PER_FORWARD = 32
ARTICLES = frozenset({"a", "an", "the", "some", "two", "three", "several", "many"})
SEPARATORS = frozenset({"and", "or", "but", "as", "are", "was", "were", "has", "have", "there"})
DIRECTIONS = {
    "left": ("left", "leftmost", "west", "western"),
    "right": ("right", "rightmost", "east", "eastern"),
    "top": ("top", "topmost", "upper", "above", "north"),
    "bottom": ("bottom", "bottommost", "lower", "below", "south", "under", "underneath"),
}
OPPOSITES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
# Followed by a noun they are a relation to another object.
PREPOSITIONS = frozenset({"above", "below", "under", "underneath"})
# Nouns of places in an image that are no objects.
PLACES = frozenset({"part", "side", "half", "region", "section", "corner", "edge", "most"})
# Beginnings of nouns for the image itself.
IMAGE_NOUNS = ("image", "pictur", "photo", "frame", "screen")


def text_augmented_scores(
    visual: Tensor,
    text: Tensor,
    captions: Tensor | None,
    negatives: Sequence[Tensor],
    weights: tuple[float, float] = (0.1, 0.7),
) -> Tensor:
    """Compute scores of masks: v.t + a c.t - b mean(v.n).

    Args:
        visual: [N, D] unit features v of the masks' crops.
        text: [K, D] unit features t of the expressions.
        captions: [N, D] unit features c of captions of the crops; None: the term is 0.
        negatives: for each expression unit features n [M, D] of phrases that are not its target; M
            may be 0, then the term is 0.
        weights: a and b; published 0.1 and 0.7.

    Returns:
        [K, N].
    """
    scores = text @ visual.t()
    if captions is not None:
        scores = scores + weights[0] * text @ captions.t()
    rows = [
        (visual @ phrases.t()).mean(1) if len(phrases) else visual.new_zeros(len(visual))
        for phrases in negatives
    ]
    return scores - weights[1] * torch.stack(rows)


def crop_features(clip: Clip, image: Tensor, masks: Tensor) -> Tensor:
    """Compute features of masks cropped on black, padded to squares.

    Args:
        clip: the model.
        image: [3, H, W] RGB in 0..1.
        masks: [N, H, W] bool, none of them empty.

    Returns:
        [N, D] unit features.
    """
    features = []
    for part in masks.split(CROPS_PER_FORWARD):
        crops = torch.stack([_square_crop(image, mask, clip.image_size) for mask in part])
        features.append(clip.image_features(crops))
    return torch.cat(features)


def square_box(image: Tensor, mask: Tensor) -> Tensor:
    """Crop an image [3, H, W] to the box of a mask and pad it with black to a square."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    crop = image[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = crop.shape[-2:]
    before_x, before_y = max(height - width, 0) // 2, max(width - height, 0) // 2
    after_x, after_y = max(height - width, 0) - before_x, max(width - height, 0) - before_y
    return F.pad(crop, (before_x, after_x, before_y, after_y))


def _square_crop(image: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    crop = square_box(image * mask, mask)
    resized = F.interpolate(crop[None], size=size, mode="bicubic", antialias=True)
    return resized[0].clamp(0, 1)


def noun_phrases(caption: str) -> list[str]:
    """Split a caption into its noun phrases, such as "a man" and "a horse".

    Phrases end at words of place, relation or activity, at conjunctions and at punctuation.
    """
    phrases: list[str] = []
    for part in re.split(r"[.,;:!?]", caption):
        words: list[str] = []
        for word in [*part.split(), "and"]:
            if PHRASE_END.fullmatch(word.lower()) or word.lower() in SEPARATORS:
                if any(w.lower() not in ARTICLES for w in words):
                    phrases.append(" ".join(words))
                words = []
            else:
                words.append(word)
    return phrases


def negative_phrases(caption: str, expression: str) -> list[str]:
    """Noun phrases of a caption whose head is not that of the expression's target phrase."""
    head = _head(target_phrase(expression))
    return [phrase for phrase in noun_phrases(caption) if _head(phrase) != head]


def _head(phrase: str) -> str:
    """Last word of a phrase without a plural ending."""
    word = phrase.split()[-1].strip(".,;:!?").lower() if phrase.split() else ""
    return word.removesuffix("s") if not word.endswith("ss") else word


def directions(expression: str) -> frozenset[str]:
    """Directions in which an expression places its target in the image.

    Relations to another object ("left of the tree", "under the table") do not count, nor do
    opposite directions together.

    Returns:
        Some of "left", "right", "top" and "bottom".
    """
    words = re.findall(r"[a-z]+", expression.lower())
    named = set()
    for index, word in enumerate(words):
        for direction, names in DIRECTIONS.items():
            if word in names and not _is_relation(word, words[index + 1 :]):
                named.add(direction)
    return frozenset(name for name in named if OPPOSITES[name] not in named)


def _is_relation(word: str, rest: Sequence[str]) -> bool:
    """Whether a direction relates to an object that the rest of the words names."""
    rest = list(rest)
    while rest and rest[0] in PLACES:
        rest.pop(0)
    if not rest or (word not in PREPOSITIONS and rest[0] not in ("of", "to", "from")):
        return False
    if word not in PREPOSITIONS:
        rest.pop(0)
    noun = next((w for w in rest if w not in ARTICLES), "")
    return noun not in PLACES and not noun.startswith(IMAGE_NOUNS)


def in_direction(masks: Tensor, sides: frozenset[str]) -> Tensor:
    """Find the masks whose centre is on these sides of the median of all centres.

    Args:
        masks: [N, H, W] bool, none of them empty.
        sides: see `directions`.

    Returns:
        [N] bool; all True where no mask is on that side.
    """
    counts = masks.sum((1, 2))
    rows = torch.arange(masks.shape[1], device=masks.device)
    columns = torch.arange(masks.shape[2], device=masks.device)
    y = torch.div((masks.sum(2) * rows).sum(1), counts, rounding_mode="floor").double()
    x = torch.div((masks.sum(1) * columns).sum(1), counts, rounding_mode="floor").double()
    inside = torch.ones(len(masks), dtype=torch.bool, device=masks.device)
    for direction, values in (("left", x), ("right", x), ("top", y), ("bottom", y)):
        if direction in sides:
            before = values < values.quantile(0.5)
            inside &= before if direction in ("left", "top") else ~before
    return inside if bool(inside.any()) else torch.ones_like(inside)


def largest_masks(masks: Tensor, min_area: int = 2000, max_overlap: float = 0.4) -> Tensor:
    """Leave out small masks, and of two that overlap the smaller one.

    Args:
        masks: [N, H, W] bool.
        min_area: pixels; published 2000.
        max_overlap: intersection as a share of the smaller mask; published 0.4.

    Returns:
        Indices in order; all of them if every mask is small.
    """
    flat = masks.flatten(1).float()
    areas = flat.sum(1)
    large = areas >= min_area
    if not bool(large.any()):
        return torch.arange(len(masks), device=masks.device)
    shares = flat @ flat.t() / torch.minimum(areas[:, None], areas[None]).clamp(min=1)
    overlaps = (shares > max_overlap) & large[:, None] & large[None]
    order = torch.arange(len(masks), device=masks.device)
    bigger = areas[None] > areas[:, None]
    equal_first = (areas[None] == areas[:, None]) & (order[None] < order[:, None])
    return order[large & ~(overlaps & (bigger | equal_first)).any(1)]
