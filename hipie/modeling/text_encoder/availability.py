"""Is there a text encoder of that name? Asked once and briefly, before libraries ask at length."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import build_hf_headers

BUILT_IN = ("minilm", "bert-base-uncased")
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
SECONDS = 5.0


def require_source(source: str) -> None:
    """Refuse a source that nothing is behind, within seconds.

    Args:
        source: see `TextEncoder.from_source`.

    Raises:
        ValueError: if it is neither built in, nor a folder, nor cached from the Hugging Face hub,
            and the hub does not know it or cannot be reached.
    """
    if source in BUILT_IN or (source and Path(source).expanduser().is_dir()):
        return
    said = f'"{source}" is no text encoder: it is neither {" nor ".join(BUILT_IN)}, nor a folder'
    if not HUB_NAME.fullmatch(source):
        raise ValueError(said)
    if isinstance(try_to_load_from_cache(source, "config.json"), str):
        return
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"{said}, nor among the downloads of the Hugging Face hub (it is offline)")
    address = f"{constants.ENDPOINT}/{source}/resolve/main/config.json"
    asked = urllib.request.Request(address, method="HEAD", headers=build_hf_headers())
    try:
        with urllib.request.urlopen(asked, timeout=SECONDS):
            return
    except urllib.error.HTTPError as error:
        raise ValueError(f"{said}, and the Hugging Face hub answers {error.code} for it") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{said}, and the Hugging Face hub cannot be asked for it ({reason})"
        ) from error
