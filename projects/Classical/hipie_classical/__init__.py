"""Classical segmentation: regions of pixels without learning, named by prototypes or CLIP.

Importing the package registers the architecture `ClassicalRegions`.
"""

from hipie_classical.config import add_hipie_classical_config
from hipie_classical.meta_arch import ClassicalRegions

__all__ = ["ClassicalRegions", "add_hipie_classical_config"]
