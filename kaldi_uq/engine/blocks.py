"""Utterances in blocks of so many frames: a pass over all features holds those of one block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

MAX_FRAMES = 1 << 17  # of a block: some 20 minutes of speech, 20 MB of features with derivatives


def blocks_of(lengths: Mapping[str, int]) -> Iterator[list[str]]:
    """The utterances in their order, in blocks of at most ``MAX_FRAMES`` frames; a longer one is a block of its own.

    Args:
        lengths: utt -> number of frames.
    """
    block: list[str] = []
    frames = 0
    for utt, length in lengths.items():
        if block and frames + length > MAX_FRAMES:
            yield block
            block, frames = [], 0
        block.append(utt)
        frames += length
    if block:
        yield block
