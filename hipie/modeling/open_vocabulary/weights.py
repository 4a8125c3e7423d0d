"""Weights of CLIP and SAM from files, as tensors only: no code in a file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hipie.modeling.open_vocabulary.error import OpenVocabularyError

INSIDE = ("state_dict", "model")


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The state dict of a `.safetensors` file, or of one that `torch.save` wrote.

    Raises:
        OpenVocabularyError: if there is no such file, it is damaged, or it holds more than tensors.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise OpenVocabularyError(f"{file}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise OpenVocabularyError(
            f"{file}: refused, since it holds more than tensors; nothing of it was run"
        ) from error
    except (RuntimeError, SafetensorError, EOFError, OSError, ValueError, LookupError) as error:
        raise OpenVocabularyError(
            f"{file}: the file is truncated or is no file of weights"
        ) from error
    for key in INSIDE:
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping) or not all(map(torch.is_tensor, stored.values())):
        raise OpenVocabularyError(f"{file}: this is not a state dict of tensors")
    return {name.removeprefix("module."): value for name, value in stored.items()}


def load_exactly(model: nn.Module, file: str | Path, called: str) -> None:
    """Load a file that has every tensor of the model and no other.

    Args:
        model: takes them in its own precision.
        file: see `read_weights`.
        called: the model's name, for the error.

    Raises:
        OpenVocabularyError: naming the first tensor that does not fit.
    """
    stored, own = read_weights(file), model.state_dict()
    for name in sorted(stored.keys() | own.keys()):
        if name not in stored:
            raise OpenVocabularyError(f'{file} has no "{name}", so it is not a {called}')
        if name not in own:
            raise OpenVocabularyError(f'{file} has a "{name}", so it is not a {called}')
        if stored[name].shape != own[name].shape:
            raise OpenVocabularyError(
                f'{file}: "{name}" is {tuple(stored[name].shape)} there and '
                f"{tuple(own[name].shape)} in a {called}"
            )
    model.load_state_dict(stored)
