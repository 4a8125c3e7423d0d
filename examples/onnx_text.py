"""Texts for the models of `hipie export`: token ids and features, without PyTorch.

pip install numpy onnxruntime tokenizers
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

onnxruntime.set_default_logger_severity(3)  # without warnings about constants it does not fold


def description(session: onnxruntime.InferenceSession) -> dict:
    """What `hipie export` has written beside the network."""
    return json.loads(session.get_modelmeta().custom_metadata_map["hipie"])


def tokenize(about: dict, text: str) -> Encoding:
    """Token ids and their character offsets of a text, of any length."""
    tokenizer = Tokenizer.from_str(about["tokenizer"])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer.encode(text)


def expression_ids(about: dict, expression: str, prefix: str = "") -> np.ndarray:
    """Token ids [1, T] of a referring expression; a long one is cut.

    Args:
        about: description of a model with expressions.
        expression: the text.
        prefix: text before it, such as that of anti-expressions, which is not cut.
    """
    if about["cleaned"]:
        text = re.sub(r"[-/]", " ", re.sub(r"[.,'!?\"()*#:;]", "", expression.lower()))
    else:
        text = expression
    encoded, keep = tokenize(about, " ".join(text.split())), about["window"] - 1
    ids = encoded.ids if len(encoded) <= keep else encoded.ids[:keep] + encoded.ids[-1:]
    before = tokenize(about, prefix).ids[1:-1] if prefix else []
    return np.array([[ids[0], *before, *ids[1:]]], np.int64)


def caption_of(names: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Join class names to the caption that the text encoder reads, with the span of each name."""
    names = [re.sub(r"\(.*\)", "", name, flags=re.DOTALL).replace("_", " ") for name in names]
    names = [name.replace("  ", " ") for name in names]
    ends = np.cumsum([len(name) + len(". ") for name in names]) - len(". ")
    return ". ".join(names), [(end - len(name), end) for name, end in zip(names, ends, strict=True)]


def windows_of(ids: list[int], limit: int, full_stop: int) -> list[list[int]]:
    """Split the ids of a caption at full stops, which end tokens replace."""
    if len(ids) <= limit:
        return [ids]
    windows, start = [], 0
    while start < len(ids):
        length = limit - 2
        while ids[start:][length - 1 : length] not in ([full_stop], [ids[-1]]):
            length -= 1
        windows.append([*ids[:1][: start and 1], *ids[start : start + length - 1], ids[-1]])
        start += length
    return windows


def encode_names(model: str, things: str, stuff: str) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Run the text encoder of `hipie export --open-vocabulary` on class names.

    Args:
        model: file of the model; that of the text encoder is beside it, its name ends in "_text".
        things: class names, "car; dog".
        stuff: likewise.

    Returns:
        The inputs `text`, `class_tokens` and `is_thing` of the model, and its classes.
    """
    session = onnxruntime.InferenceSession(Path(model).with_stem(Path(model).stem + "_text"))
    about, lists = description(session), [things.split(";"), stuff.split(";")]
    lists = [[name.strip() for name in names if name.strip()] for names in lists]
    names = [*lists[0], *lists[1]]
    caption, spans = caption_of(names)
    encoded = tokenize(about, caption)
    full_stop = Tokenizer.from_str(about["tokenizer"]).token_to_id(".")
    features = []
    for number, ids in enumerate(windows_of(encoded.ids, about["window"], full_stop)):
        (window,) = session.run(None, {"ids": np.array([ids], np.int64)})
        features.append(window[int(number > 0) :])
    class_tokens = np.zeros((len(spans), len(encoded)), np.float32)
    for row, (start, end) in zip(class_tokens, spans, strict=True):
        row[[token for token, (a, b) in enumerate(encoded.offsets) if start <= a < b <= end]] = 1
    is_thing = np.arange(len(names)) < len(lists[0])
    classes = [
        {"name": name, "kind": "thing" if thing else "stuff"}
        for name, thing in zip(names, is_thing, strict=True)
    ]
    text = np.concatenate(features)
    return {"text": text, "class_tokens": class_tokens, "is_thing": is_thing}, classes
