"""Drawing functions of the thing classes, by class name in `DRAWINGS`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..pen import Pen
from . import animals, objects, people, plants, vehicles

Drawing = Callable[[Pen, np.random.Generator], None]

DRAWINGS: dict[str, Drawing] = {
    "person": people.person,
    "dog": animals.dog,
    "cat": animals.cat,
    "bird": animals.bird,
    "fish": animals.fish,
    "car": vehicles.car,
    "boat": vehicles.boat,
    "house": vehicles.house,
    "tree": plants.tree,
    "flower": plants.flower,
    "ball": objects.ball,
    "balloon": objects.balloon,
    "kite": objects.kite,
    "umbrella": objects.umbrella,
    "chair": objects.chair,
    "cup": objects.cup,
    "horse": animals.horse,
    "bus": vehicles.bus,
    "teapot": objects.teapot,
}
