"""Batches are a function of the seed and the iteration."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from hipie.data.samplers.training_sampler import BatchSampler

WIDE = [[i % 3 != 0 for i in range(50)], [True] * 7, [False] * 30]


def make(seed: int = 3, ratios=(2.0, 1.0, 1.0), sizes=(4, 4, 2)) -> BatchSampler:
    return BatchSampler(WIDE, ratios, sizes, seed)


def test_resuming_gives_the_same_batches() -> None:
    straight = list(islice(make().share(), 60))
    for start in (1, 17, 59):
        assert list(islice(make().share(start), 60 - start)) == straight[start:]


def test_batches_do_not_depend_on_earlier_calls() -> None:
    asked_late = make()
    for t in (200, 3, 77):
        asked_late.batch(t)
    assert asked_late.batch(10) == make().batch(10)


def test_processes_divide_the_batch_of_one_process() -> None:
    whole = list(islice(make().share(), 30))
    shares = [list(islice(make().share(0, rank, 2), 30)) for rank in range(2)]
    for t, batch in enumerate(whole):
        assert len(shares[0][t]) == len(shares[1][t]) == len(batch) // 2
        joined = [None] * len(batch)
        joined[0::2], joined[1::2] = shares[0][t], shares[1][t]
        assert joined == batch


def test_seeds_differ() -> None:
    assert [make(1).batch(t) for t in range(10)] != [make(2).batch(t) for t in range(10)]
    seeds = [draw.seed for t in range(40) for draw in make().batch(t)]
    assert len(set(seeds)) == len(seeds)


def test_one_data_set_and_one_orientation_a_batch() -> None:
    for t in range(100):
        batch = make().batch(t)
        assert len({draw.dataset for draw in batch}) == 1
        assert len({WIDE[draw.dataset][draw.index] for draw in batch}) == 1
        assert len(batch) == (4, 4, 2)[batch[0].dataset]


def test_ratios_hold_exactly_over_blocks() -> None:
    turns = Counter(make().batch(t)[0].dataset for t in range(400))
    assert turns == {0: 200, 1: 100, 2: 100}
    uneven = make(ratios=(0.5, 0.25, 0))
    assert Counter(uneven.batch(t)[0].dataset for t in range(300)) == {0: 200, 1: 100}


def test_turns_are_mixed() -> None:
    sets = [make().batch(t)[0].dataset for t in range(40)]
    assert len({tuple(sets[i : i + 4]) for i in range(0, 40, 4)}) > 3


def test_a_pass_shows_every_item() -> None:
    sampler = BatchSampler([WIDE[0]], [1.0], [4], 0)
    a_pass = 9 + 5
    for start in (0, a_pass):
        drawn = Counter(d.index for t in range(start, start + a_pass) for d in sampler.batch(t))
        assert set(drawn) == set(range(50))
        assert sum(drawn.values()) == 56
    first = [d.index for d in sampler.batch(0)]
    assert first != [d.index for d in sampler.batch(a_pass)]


def test_a_bucket_smaller_than_the_batch_repeats() -> None:
    batch = BatchSampler([[True, True]], [1], [5], 0).batch(0)
    assert Counter(draw.index for draw in batch).most_common() in (
        [(0, 3), (1, 2)],
        [(1, 3), (0, 2)],
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((WIDE, (1, 1), (2, 2, 2), 0), "3 data sets, 2 ratios"),
        (([[]], (1,), (2,), 0), "no items"),
        (([[True]], (-1,), (2,), 0), "negative"),
        (([[True]], (0,), (2,), 0), "all 0"),
        (([[True]], (1,), (0,), 0), "at least 1"),
    ],
)
def test_bad_arguments(arguments: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BatchSampler(*arguments)


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="a batch of 2 cannot be shared by 4 processes"):
        make().share(0, 0, 4)


def test_items_draw_from_their_own_seed() -> None:
    batch = make().batch(0)
    numbers = {np.random.default_rng(list(draw.seed)).integers(2**60) for draw in batch}
    assert len(numbers) == len(batch)
