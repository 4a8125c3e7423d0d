"""Segmentation without training: networks that others have trained, put together anew.

Importing the package registers the architectures `MaskCLIP`, `SCLIP`, `GEM`, `CLIPDINOiser`,
`ClassAttention`, `KMeansGrouping`, `TokenCut`, `DiffusionAttention` and `GlobalLocalCLIP`.
"""

from hipie_training_free.clip_dense import GEM, SCLIP, CLIPDINOiser, MaskCLIP
from hipie_training_free.config import add_hipie_training_free_config
from hipie_training_free.diffusion_attention import DiffusionAttention
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.global_local_referring import GlobalLocalCLIP
from hipie_training_free.unsupervised_grouping import ClassAttention, KMeansGrouping, TokenCut

__all__ = [
    "GEM",
    "SCLIP",
    "CLIPDINOiser",
    "ClassAttention",
    "DiffusionAttention",
    "GlobalLocalCLIP",
    "KMeansGrouping",
    "MaskCLIP",
    "TokenCut",
    "TrainingFreeError",
    "add_hipie_training_free_config",
]
