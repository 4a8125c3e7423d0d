"""Check of `.npz` files before NumPy reads them: weights of JAX models, in timm and open_clip.

NumPy reserves what the header of an array declares, and inflates what a member stores, before it
notices that a file is damaged or built to be large.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from hipie.checkpoint.error import CheckpointError
from hipie.errors import cause_of, printable

# Weights are noise, which deflates to about nine tenths; arrays of one value are few of them.
MAX_INFLATION = 8
_ARRAY = ".npy"
_DAMAGED = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,  # an encrypted member
    MemoryError,
    zlib.error,
)


def check_numpy_archive(path: str | Path) -> None:
    """Check that a file is a zip archive of plain arrays that are not much larger than the file.

    Args:
        path: a file `.npz`.

    Raises:
        CheckpointError: naming the file, if it is none, has pickled objects, inflates to more than
            `MAX_INFLATION` times its size, or an array declares other bytes than it stores.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: this is not a regular file")
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            inflated = sum(member.file_size for member in members)
            if inflated > MAX_INFLATION * size:
                raise CheckpointError(
                    f"{path}: its arrays inflate to {inflated:,} bytes, more than {MAX_INFLATION} "
                    f"times the {size:,} bytes of the file"
                )
            names = [member.filename for member in members]
            if not names or len(set(names)) < len(names):
                raise CheckpointError(f"{path}: it has no array, or two of one name")
            for member in members:
                with archive.open(member) as stream:
                    _check_array(f'{path}: "{printable(member.filename)}"', member, stream)
    except CheckpointError:
        raise
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path}: this is no archive of arrays, or a damaged one ({cause_of(error)})"
        ) from error


def _check_array(where: str, member: zipfile.ZipInfo, stream: IO[bytes]) -> None:
    """Check the header of one array against the bytes of its member."""
    if not member.filename.endswith(_ARRAY):
        raise CheckpointError(f"{where} is no array ({_ARRAY})")
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise CheckpointError(f"{where} has version {version[0]}.{version[1]} of the format")
    shape, _, dtype = readers[version](stream)
    if dtype.hasobject:
        raise CheckpointError(f"{where} is a pickle, and nothing of it was run")
    if any(side < 0 for side in shape):
        raise CheckpointError(f"{where} has the shape {shape}")
    declared = math.prod(shape) * np.dtype(dtype).itemsize
    stored = member.file_size - stream.tell()
    if declared != stored:
        raise CheckpointError(
            f"{where} declares {declared:,} bytes, and its member has {stored:,} of them"
        )
