"""Reading and writing weights: ours, Detectron2's, safetensors; never running pickled code."""

from hipie.checkpoint.checkpointer import Checkpointer
from hipie.checkpoint.files import CheckpointError, read_state
from hipie.checkpoint.loading import LoadReport, load_state, load_weights, save_weights

__all__ = [
    "CheckpointError",
    "Checkpointer",
    "LoadReport",
    "load_state",
    "load_weights",
    "read_state",
    "save_weights",
]
