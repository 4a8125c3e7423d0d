"""Captions cut into windows cover every token once, and end at class borders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipie.modeling.text_encoder.caption_windows import Markers, cut_into_windows

START, END, PADDING, STOP = 101, 102, 0, 1012
MARKERS = Markers(START, END, PADDING, STOP)


def caption_of(lengths: list[int]) -> list[int]:
    ids = [START]
    for name, length in enumerate(lengths):
        ids += [2000 + name] * length + [STOP]
    return [*ids[:-1], END]


def test_a_caption_that_fits_is_one_window() -> None:
    ids = caption_of([3, 2, 3])
    (only,) = cut_into_windows(ids, MARKERS, window=len(ids))
    assert (list(only.ids), only.offset, only.skip) == (ids, 0, 0)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40), st.integers(16, 40))
def test_every_word_piece_once_and_cuts_at_full_stops(lengths: list[int], window: int) -> None:
    ids = caption_of(lengths)
    windows = cut_into_windows(ids, MARKERS, window)
    joined: list[int] = []
    for one in windows:
        assert one.offset == len(joined)
        assert len(one.ids) <= window
        assert one.ids[0] == START
        assert one.ids[-1] == END
        joined += one.ids[one.skip :]
    borders = {one.offset - 1 for one in windows[1:]}
    for i, (mine, given_id) in enumerate(zip(joined, ids, strict=True)):
        assert mine == (END if i in borders else given_id)
        assert i not in borders or given_id == STOP


@given(st.lists(st.integers(1, 10), min_size=20, max_size=40))
def test_windows_are_as_long_as_class_borders_allow(lengths: list[int]) -> None:
    window = 24
    ids = caption_of(lengths)
    windows = cut_into_windows(ids, MARKERS, window)
    for one, following in zip(windows, windows[1:], strict=False):
        own = len(one.ids) - one.skip
        name = following.ids[1:].index(END)
        if STOP in following.ids:
            name = min(name, following.ids[1:].index(STOP))
        assert own + name + 1 > window - 2


def test_a_stretch_without_full_stop_is_an_error() -> None:
    with pytest.raises(ValueError, match="no full stop"):
        cut_into_windows(caption_of([30, 2]), MARKERS, window=20)
