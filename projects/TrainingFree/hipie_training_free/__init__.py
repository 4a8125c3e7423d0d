"""Segmentation without training, from pre-trained networks.

Importing the package registers the architectures `MaskCLIP`, `SCLIP`, `GEM`, `CLIPDINOiser`,
`CLIPDINOiserStudent`, `ClassAttention`, `KMeansGrouping`, `TokenCut`, `MaskCut`,
`DiffusionAttention`, `GlobalLocalCLIP`, `TAS` and `Peekaboo`, and the backbone
`build_diffusion_backbone`.
"""

from hipie_training_free.clip_dinoiser import CLIPDINOiser
from hipie_training_free.clip_dinoiser_student import CLIPDINOiserStudent
from hipie_training_free.config import add_hipie_training_free_config
from hipie_training_free.diffusion_attention import DiffusionAttention
from hipie_training_free.diffusion_backbone import DiffusionBackbone
from hipie_training_free.error import TrainingFreeError
from hipie_training_free.gem import GEM
from hipie_training_free.global_local_referring import GlobalLocalCLIP
from hipie_training_free.maskclip import MaskCLIP
from hipie_training_free.peekaboo import Peekaboo
from hipie_training_free.sclip import SCLIP
from hipie_training_free.text_augmented_referring import TAS
from hipie_training_free.unsupervised_grouping import (
    ClassAttention,
    KMeansGrouping,
    MaskCut,
    TokenCut,
)

__all__ = [
    "GEM",
    "SCLIP",
    "TAS",
    "CLIPDINOiser",
    "CLIPDINOiserStudent",
    "ClassAttention",
    "DiffusionAttention",
    "DiffusionBackbone",
    "GlobalLocalCLIP",
    "KMeansGrouping",
    "MaskCLIP",
    "MaskCut",
    "Peekaboo",
    "TokenCut",
    "TrainingFreeError",
    "add_hipie_training_free_config",
]
