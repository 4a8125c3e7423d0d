"""Downloads of files by address, with checks of address, redirects and content."""

from hipie.downloads.address import ALLOW_HTTP, DownloadError, add_network_arguments, cache_folder
from hipie.downloads.transfer import download

__all__ = ["ALLOW_HTTP", "DownloadError", "add_network_arguments", "cache_folder", "download"]
