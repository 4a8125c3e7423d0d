"""From a record of a data set to the model's input dict."""

from hipie.data.dataset_mappers.referring import ReferringMapper
from hipie.data.dataset_mappers.universal import UniversalMapper

__all__ = ["ReferringMapper", "UniversalMapper"]
