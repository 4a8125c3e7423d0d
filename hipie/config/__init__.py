"""Configuration: every key with its default, and merging of files and command lines."""

from hipie.config.defaults import add_hipie_config

__all__ = ["add_hipie_config"]
