"""Networks of other groups behind the interface of this package, for comparisons.

Importing the package registers the architectures `TransformersCLIPSeg`, `TransformersSAM3`,
`GroundedSAM`, `TransformersMask2Former`, `TransformersOneFormer` and `TransformersFlorence2`, and
their published weights in the table of models.
"""

from hipie_peers import models
from hipie_peers.clipseg import TransformersCLIPSeg
from hipie_peers.closed_vocabulary import TransformersMask2Former, TransformersOneFormer
from hipie_peers.config import add_hipie_peers_config
from hipie_peers.error import PeerError
from hipie_peers.florence2 import TransformersFlorence2
from hipie_peers.grounded_sam import GroundedSAM
from hipie_peers.sam3 import TransformersSAM3

models.register()

__all__ = [
    "GroundedSAM",
    "PeerError",
    "TransformersCLIPSeg",
    "TransformersFlorence2",
    "TransformersMask2Former",
    "TransformersOneFormer",
    "TransformersSAM3",
    "add_hipie_peers_config",
]
