"""From a record of a data set to the model's input dict."""

from hipie.data.mappers.referring import ReferringMapper
from hipie.data.mappers.universal import UniversalMapper

__all__ = ["ReferringMapper", "UniversalMapper"]
