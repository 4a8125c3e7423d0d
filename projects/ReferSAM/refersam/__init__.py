"""ReferSAM: referring segmentation on the Segment Anything Model.

Liu, Xie, Ge, Zhang, IEEE TCSVT 35(5):4910-4922, 2025. Importing the package registers the
architecture `ReferSAM`.
"""

from hipie.export.traceable import register_exporter
from refersam.config import add_refersam_config
from refersam.meta_arch import ReferSAM

__all__ = ["ReferSAM", "add_refersam_config"]

register_exporter("ReferSAM", "refersam.export:refersam_networks")
