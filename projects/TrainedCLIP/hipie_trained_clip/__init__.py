"""Segmentation networks trained on CLIP: CRIS, ETRIS and ZegCLIP.

Importing the package registers the architectures `CRIS` and `ETRIS` (referring segmentation) and
`ZegCLIP` (zero-shot semantic segmentation).
"""

from hipie_trained_clip.config import add_hipie_trained_clip_config
from hipie_trained_clip.cris import CRIS
from hipie_trained_clip.etris import ETRIS
from hipie_trained_clip.zegclip import ZegCLIP

__all__ = ["CRIS", "ETRIS", "ZegCLIP", "add_hipie_trained_clip_config"]
