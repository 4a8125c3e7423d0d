"""Prototypes of classes: mean features of annotated regions, compared by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.data.io.json_file import read_json
from hipie.errors import InputError, printable
from hipie.logs import get_logger
from hipie.result_files import write_json
from hipie.vocabularies.vocabulary import Vocabulary, name_key

FORMAT = "hipie_classical.prototypes"
PACKAGE_PREFIX = "package:"
WEIGHTS = Path(__file__).parents[1] / "weights"
MIN_DEVIATION = 1e-6
DIGITS = 4
MAX_NAMED = 20

_logger = get_logger(__name__)


@cache
def warn_once(message: str) -> None:
    """Log a warning, once a process."""
    _logger.warning(message)


@dataclass(frozen=True)
class Prototypes:
    """Mean features of classes.

    Attributes:
        names: K class names.
        means: [K, D] of features that are normalised with `center` and `scale`.
        center: [D] mean of all regions' features.
        scale: [D] their standard deviation.
        features: kinds of the features, see `RegionFeatures`.
        file: where they were read, for messages.
    """

    names: tuple[str, ...]
    means: Tensor
    center: Tensor
    scale: Tensor
    features: tuple[str, ...]
    file: str = ""

    @classmethod
    def fit(
        cls, features: Tensor, classes: Sequence[int], names: Sequence[str], kinds: Sequence[str]
    ) -> Prototypes:
        """Compute the prototypes of the classes that have regions.

        Args:
            features: [N, D] of regions.
            classes: N indices in `names`.
            names: names of all classes.
            kinds: of the features.

        Raises:
            InputError: without any region.
        """
        if not len(features):
            raise InputError("there are no annotated regions to compute prototypes from")
        center = features.mean(0)
        scale = features.std(0, correction=0).clamp(min=MIN_DEVIATION)
        index = torch.as_tensor(classes)
        normalized = (features - center) / scale
        present = sorted(set(index.tolist()))
        means = torch.stack([normalized[index == label].mean(0) for label in present])
        known = tuple(names[label] for label in present)
        return cls(known, means, center, scale, tuple(kinds))

    @classmethod
    def read(cls, file: str) -> Prototypes:
        """Read a file that `write` has written.

        Args:
            file: a path, or "package:NAME" for a file of this package.

        Raises:
            InputError: naming the file, if it does not exist or has other content.
        """
        path = Path(file)
        if file.startswith(PACKAGE_PREFIX):
            path = WEIGHTS / f"{file.removeprefix(PACKAGE_PREFIX)}_prototypes.json"
        if not path.is_file():
            raise InputError(
                f"MODEL.CLASSICAL.PROTOTYPES.FILE: there is no file {printable(path)}; "
                "python -m hipie_classical writes one"
            )
        content = read_json(path)
        try:
            if content["format"] != FORMAT:
                raise ValueError(content["format"])
            rows: dict[str, Any] = content["classes"]
            center, scale = (torch.tensor(content[key]) for key in ("center", "scale"))
            means = torch.tensor(list(rows.values())).reshape(len(rows), len(center))
            if scale.shape != center.shape or not len(rows) or not (scale > 0).all():
                raise ValueError(scale.shape)
            kinds = tuple(str(kind) for kind in content["features"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{printable(path)}: this is not a file of prototypes, as python -m "
                "hipie_classical writes it"
            ) from error
        return cls(tuple(rows), means, center, scale, kinds, str(path))

    def write(self, file: str | Path) -> Path:
        """Write the prototypes as JSON, rounded to four digits behind the point."""
        rounded = [[round(value, DIGITS) for value in row] for row in self.means.tolist()]
        return write_json(
            file,
            {
                "format": FORMAT,
                "features": list(self.features),
                "classes": dict(zip(self.names, rounded, strict=True)),
                "center": [round(value, DIGITS) for value in self.center.tolist()],
                "scale": [float(f"{value:.{DIGITS}g}") for value in self.scale.tolist()],
            },
        )

    def rows_of(self, vocabulary: Vocabulary) -> list[list[int]]:
        """Return the rows in `means` of the names of every class of a vocabulary.

        A class of which no name is known has no rows; a warning names it.

        Raises:
            InputError: naming the file, if no class is known.
        """
        row_of = {name_key(name): row for row, name in enumerate(self.names)}
        rows = []
        for entry in vocabulary.classes:
            known = [row_of[key] for key in map(name_key, entry.phrases) if key in row_of]
            rows.append(list(dict.fromkeys(known)))
        missing = [
            printable(entry.name)
            for entry, own in zip(vocabulary.classes, rows, strict=True)
            if not own
        ]
        file = self.file or "the prototypes"
        if len(missing) == len(rows):
            raise InputError(
                f"{file}: there is no prototype of {', '.join(missing[:MAX_NAMED])}; there are "
                f"those of {', '.join(self.names)}"
            )
        if missing:
            warn_once(f"{file}: no region is named {', '.join(missing)}: there is no prototype")
        return rows

    def probabilities(self, features: Tensor, vocabulary: Vocabulary, temperature: float) -> Tensor:
        """Compute the softmax of cosines with the prototypes, divided by a temperature.

        Args:
            features: [N, D].
            vocabulary: K classes; a class with several prototypes has its best cosine, one without
                a prototype the probability 0.
            temperature: above 0.

        Returns:
            [N, K].

        Raises:
            InputError: if no class has a prototype.
        """
        rows = self.rows_of(vocabulary)
        normalized = F.normalize((features - self.center) / self.scale, dim=1)
        cosines = normalized @ F.normalize(self.means, dim=1).t()
        absent = cosines.new_full((len(cosines),), -torch.inf)
        best = torch.stack([cosines[:, own].amax(1) if own else absent for own in rows], dim=1)
        return (best / temperature).softmax(1)
