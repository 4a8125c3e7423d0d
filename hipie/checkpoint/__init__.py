"""Reading and writing weights: ours, Detectron2's, safetensors; never running pickled code."""

from hipie.checkpoint.checkpointer import Checkpointer
from hipie.checkpoint.error import CheckpointError
from hipie.checkpoint.export import save_weights
from hipie.checkpoint.load import load_state, load_weights
from hipie.checkpoint.read import read_state
from hipie.checkpoint.report import LoadReport

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "LoadReport",
    "load_state",
    "load_weights",
    "read_state",
    "save_weights",
]
