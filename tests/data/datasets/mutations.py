"""Changes to annotation files that readers have to survive."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

STRANGE = [
    None,
    True,
    0,
    -1,
    -7,
    10**9,
    10**30,
    0.5,
    float("nan"),
    float("inf"),
    -1e300,
    "",
    " ",
    "x",
    "0",
    "nan",
    b"bytes",
    [],
    {},
    [None],
    [[]],
    [[[1]]],
    {"size": [1, 2], "counts": "abc"},
    {"size": [30, 40], "counts": [5, -5, 1200]},
    {"size": [10**9, 10**9], "counts": "0"},
    {"size": [30, 40], "counts": "Qoooooooooooooooo0"},
    {"size": [30, 40]},
    [[float("nan")] * 8],
    [[1e15, 0.0, 5.0, 1e15, 3.0, 4.0]],
    [[1.0, 2.0, 3.0, 4.0]],
    [1.0, 2.0, float("nan"), 4.0],
    [1, 2, -3, 4],
    ["a", "b"],
]


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where something stands in nested lists and dictionaries."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(rng: random.Random, content: Any, as_json: bool) -> Any:
    """A copy with one or two things replaced, removed, doubled or put under another key."""
    changed = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2])):
        everywhere = list(places(changed))
        if not everywhere:
            return changed
        path = rng.choice(everywhere)
        parent = changed
        for key in path[:-1]:
            parent = parent[key]
        strange = rng.choice([one for one in STRANGE if not (as_json and isinstance(one, bytes))])
        action = rng.choice(["replace", "replace", "replace", "remove", "double", "key"])
        if action == "replace":
            parent[path[-1]] = copy.deepcopy(strange)
        elif action == "remove":
            del parent[path[-1]]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
        elif action == "key":
            parent[rng.choice(["x", "id"])] = parent.pop(path[-1])
    return changed


def damaged(rng: random.Random, data: bytes) -> bytes:
    """A copy with bytes cut off, changed, inserted or left out."""
    content = bytearray(data)
    action = rng.choice(["cut", "change", "change", "change", "insert", "drop"])
    place = rng.randrange(len(content))
    if action == "cut":
        return bytes(content[:place])
    if action == "change":
        for _ in range(rng.choice([1, 1, 3])):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif action == "insert":
        content[place:place] = rng.randbytes(rng.randint(1, 8))
    else:
        del content[place : place + rng.randint(1, 20)]
    return bytes(content)


def changed_files(
    seed: int, content: Any, write: Callable[[Any], bytes], as_json: bool, number: int
) -> Iterator[bytes]:
    """Changed versions of a file: two of three with changed content, the others with bytes."""
    rng = random.Random(seed)
    whole = write(content)
    for k in range(number):
        yield damaged(rng, whole) if k % 3 == 0 else write(mutated(rng, content, as_json))
