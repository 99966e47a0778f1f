"""Searches in the log-posteriors of a network trained by connectionist temporal classification (CTC).

A path is a token, or the blank, for each frame; it is heard as its tokens without repeats, and then without blanks.
Source: Graves et al. 2006, "Connectionist temporal classification", section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from kaldi_uq.errors import MissingDependencyError


def greedy(log_post: np.ndarray, blank: int) -> tuple[int, ...]:
    """The tokens of the most probable path.

    Args:
        log_post: (T, C) float.
        blank: index of the blank.

    >>> greedy(np.log([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]]), blank=0)
    (1, 1)
    """
    return tuple(token for token, _ in itertools.groupby(log_post.argmax(1).tolist()) if token != blank)


def beam_search(log_post: np.ndarray, blank: int, beam: int) -> tuple[int, ...]:
    """The tokens whose paths have the largest probability together, among those that survive.

    Args:
        log_post: (T, C) float.
        blank: index of the blank.
        beam: beginnings of the text that are kept from one frame to the next.

    Source: Graves et al. 2006, section 3.2 (prefix search), pruned to a beam.
    """
    prefixes: list[tuple[int, ...]] = [()]
    num_classes = log_post.shape[1]
    after_blank, after_token = np.zeros(1), np.full(1, -np.inf)  # log P of the paths that end in the one or the other
    for frame in log_post.astype(np.float64):
        size = len(prefixes)
        total = np.logaddexp(after_blank, after_token)
        rows = np.array([row for row, prefix in enumerate(prefixes) if prefix], dtype=np.int64)
        last = np.array([prefix[-1] for prefix in prefixes if prefix], dtype=np.int64)
        longer = total[:, None] + frame  # the prefix and one more token
        longer[rows, last] = after_blank[rows] + frame[last]  # the same token once more: only after a blank
        longer[:, blank] = -np.inf
        same = np.full(size, -np.inf)  # the prefix as it is, its last token repeated
        same[rows] = after_token[rows] + frame[last]
        places = {prefix: row for row, prefix in enumerate(prefixes)}
        for prefix, row in places.items():
            parent = places.get(prefix[:-1]) if prefix else None
            if parent is not None:  # two ways to one prefix
                same[row] = np.logaddexp(same[row], longer[parent, prefix[-1]])
                longer[parent, prefix[-1]] = -np.inf
        after_blank = np.concatenate([total + frame[blank], np.full(longer.size, -np.inf)])
        after_token = np.concatenate([same, longer.ravel()])
        score = np.logaddexp(after_blank, after_token)
        best = np.argsort(-score, kind="stable")[:beam]
        best = best[score[best] > -np.inf]
        after_blank, after_token = after_blank[best], after_token[best]
        pairs = (divmod(index - size, num_classes) if index >= size else (index, None) for index in best.tolist())
        prefixes = [prefixes[row] if token is None else prefixes[row] + (token,) for row, token in pairs]
    return prefixes[0]


def frames_needed(tokens: Sequence[int]) -> int:
    """The fewest frames that hold the tokens: one each, and a blank between two that are the same.

    >>> frames_needed([3, 3, 4])
    4
    """
    return len(tokens) + sum(one == other for one, other in itertools.pairwise(tokens))


def best_path(log_post: np.ndarray, tokens: Sequence[int], blank: int) -> np.ndarray | None:
    """The most probable path of given tokens.

    Args:
        log_post: (T, C) float.
        tokens: at least one, none of them the blank.
        blank: index of the blank.

    Returns:
        (T,) int64, a token or the blank for each frame; ``None`` if there are too few frames.

    Raises:
        MissingDependencyError: torchaudio cannot be imported.
    """
    try:
        from torchaudio.functional import forced_align
    except (ImportError, OSError) as error:  # OSError: made for another PyTorch
        raise MissingDependencyError(
            f"attacks on a CTC network align its target with torchaudio of torch's release, {torch.__version__}, and "
            f"it cannot be imported ({error}); run: pip install 'kaldi-uq[torchaudio]', which brings such a pair"
        ) from error
    if not tokens or frames_needed(tokens) > len(log_post):
        return None
    path, _ = forced_align(torch.from_numpy(log_post)[None], torch.tensor([list(tokens)]), blank=blank)
    return path[0].numpy().astype(np.int64)
