"""Small models, and files that would run code."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from torch import nn

from hipie.checkpoint.base import CheckpointableModel


class TwoLayers(nn.Module):
    """Two layers and a norm."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)


class WithPackaged(CheckpointableModel):
    """Model whose text encoder's weights an installed package provides."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 2)
        self.text_encoder = nn.Linear(5, 5)

    def external_weight_prefixes(self) -> tuple[str, ...]:
        return ("text_encoder.",)


class RunsCode:
    """Object whose pickle calls `os.mkdir`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def two():
    return TwoLayers()


@pytest.fixture
def make_two():
    return TwoLayers


@pytest.fixture
def with_packaged():
    return WithPackaged()


@pytest.fixture
def traps(tmp_path):
    """Files whose unpickling would create a folder, and that folder."""
    owned = tmp_path / "owned"
    trap = RunsCode(str(owned))
    weights = {"a": torch.ones(2)}
    files = [tmp_path / name for name in ("bare.pkl", "zoo.pkl", "new.pth", "old.pth", "bare.pth")]
    files[0].write_bytes(pickle.dumps(trap))
    files[1].write_bytes(pickle.dumps({"model": weights, "__author__": trap}))
    torch.save({"model": weights, "note": trap}, files[2])
    torch.save({"model": weights, "note": trap}, files[3], _use_new_zipfile_serialization=False)
    files[4].write_bytes(pickle.dumps(trap))
    return files, owned
