"""The best path of long audio from windows of frames that overlap, decoded one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

WINDOW = 1 << 13  # frames that are decoded together
OVERLAP = 1 << 10  # frames that two windows share: ten seconds, of which paths soon agree on all but the ends


def overlapping(
    stretches: Iterable[np.ndarray], size: int = WINDOW, overlap: int = OVERLAP
) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of frames, each of which begins with the last frames of the one before.

    Args:
        stretches: successive stretches (t, C) of scores.
        size: frames of a window; the last is shorter.
        overlap: frames that a window shares with the one before.

    Yields:
        number of the first frame, and (n, C) float32, valid until the next is asked for.

    >>> stretches = [np.zeros((3, 1), np.float32)] * 3
    >>> [(first, len(scores)) for first, scores in overlapping(stretches, 4, 1)]
    [(0, 4), (3, 4), (6, 3)]
    """
    window = np.empty((0, 0), np.float32)
    first = filled = 0
    for stretch in stretches:
        if not window.size:
            window = np.empty((size, stretch.shape[1]), np.float32)
        while len(stretch):
            if filled == size:
                yield first, window
                window[:overlap] = window[size - overlap :].copy()
                first, filled = first + size - overlap, overlap
            taken = stretch[: size - filled]
            window[filled : filled + len(taken)] = taken
            filled, stretch = filled + len(taken), stretch[len(taken) :]
    yield first, window[:filled]


def meeting(path: np.ndarray, window: np.ndarray, takes_frame: np.ndarray, first: int) -> tuple[int, int]:
    """Where a path goes over into that of the next window: in the middle of the longest stretch in which they agree.

    Near its ends a window's path is not that of the whole: it had to begin in the initial state, and perhaps to end in
    a final one.  Where two paths take the same arc they are in the same state, so that what is joined is a path.

    Args:
        path: arcs of the path so far, (n,) int64; frames that it lacks are behind its end.
        window: those of the next window; empty if no path survived in it.
        takes_frame: (arcs,) bool, whether an arc takes a frame.
        first: frame of the path with which the window begins.

    Returns:
        ``(i, j)``: ``path[:i]`` and then ``window[j:]``.

    >>> takes = np.array([False, True, True, True, False])
    >>> meeting(np.array([1, 4, 2, 2, 2, 3]), np.array([3, 2, 2, 4, 1]), takes, 2)
    (4, 1)
    """
    ours, theirs = np.flatnonzero(takes_frame[path]), np.flatnonzero(takes_frame[window])
    shared = ours[first:]  # places of the arcs of the frames that both have
    size = min(len(shared), len(theirs))
    if not size:
        return len(path), 0
    same = np.append(path[shared[:size]] == window[theirs[:size]], False)
    breaks = np.flatnonzero(~same)
    runs = np.diff(breaks, prepend=-1) - 1
    longest = int(runs.argmax())
    frame = int(breaks[longest] - (runs[longest] + 1) // 2) if runs[longest] else size // 2
    return int(shared[frame]), int(theirs[frame])
