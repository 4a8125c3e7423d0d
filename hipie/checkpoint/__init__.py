"""Reading and writing of weights in several formats, without running code of the files."""

from hipie.checkpoint.base import CheckpointableModel
from hipie.checkpoint.checkpointer import Checkpointer
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.export import save_weights
from hipie.checkpoint.load import LoadReport, load_state, load_weights
from hipie.checkpoint.read import read_state

__all__ = [
    "CheckpointError",
    "CheckpointableModel",
    "Checkpointer",
    "LoadReport",
    "load_state",
    "load_weights",
    "read_state",
    "save_weights",
]
