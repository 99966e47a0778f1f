"""Certificates: no change of the audio within eps makes the recogniser write a target, or any other text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kaldi_uq.certificate.cells import Cells
from kaldi_uq.certificate.network import Certifiable, members_of
from kaldi_uq.certificate.paths import BestPath, GraphPaths
from kaldi_uq.recogniser.base import BaseRecogniser
from kaldi_uq.recogniser.recogniser import Recogniser

# A path has to lead by more than the rounding of float64, in scaled log-likelihood.
LEAD = 1e-6


@dataclass(frozen=True)
class Certificate:
    """What is proved of one utterance.

    Attributes:
        words: what the recogniser writes for the audio as it is.
        target: the text that it is certified against; ``None`` without one.
        eps_target: the largest eps of those tried within which it never writes the target; 0 if there is none.
        eps_any: the largest one within which it always writes ``words``; 0 if there is none.
        leads: eps that was tried -> the lower bounds of the lead of ``words`` over the target and over any other text,
            in scaled log-likelihood; above 0 it is certified.
    """

    words: tuple[str, ...]
    target: tuple[str, ...] | None
    eps_target: float
    eps_any: float
    leads: dict[float, tuple[float, float]]


class Certifier:
    """Bounds of the scores of a recogniser, and of the paths that they lead to.

    Args:
        recogniser: hybrid, with a network of kind ``dnn`` or ``ensemble``.

    Raises:
        ValueError: a recogniser that has no certificate; says why.
    """

    def __init__(self, recogniser: BaseRecogniser) -> None:
        if not isinstance(recogniser, Recogniser):
            raise ValueError(f"no certificate for a {type(recogniser).__name__}: certify a hybrid Recogniser")
        self.recogniser = recogniser.in_double()
        model = self.recogniser.model
        members = members_of(model.network)
        self.scores = Certifiable(model.front_end, Cells(model.front_end), members)
        self.paths = GraphPaths(recogniser.model_dir, recogniser.graph_dir)
        self._acwt = float(recogniser.decode_config.acwt)

    def reference(self, wave: np.ndarray) -> BestPath | None:
        """The best path through the audio as it is.

        Args:
            wave: (N,) float in [-1, 1].
        """
        return self.paths.best(self._acwt * self._loglikes(wave))

    def _loglikes(self, wave: np.ndarray) -> np.ndarray:
        device = self.recogniser.device
        with torch.no_grad():
            wav, size = torch.from_numpy(wave).double().to(device), torch.tensor([len(wave)], device=device)
            log_post = self.recogniser.mean_log_post(wav.unsqueeze(0), size, [""])
            scores: np.ndarray = self.recogniser.scores(log_post)[0].cpu().numpy()
        return scores

    def lead(self, wave: np.ndarray, path: BestPath, eps: float) -> np.ndarray:
        """Upper bounds of what each class adds to the score of a path that takes it, instead of the class of ``path``.

        Args:
            wave: (N,) float in [-1, 1].
            path: the path that others are compared with.
            eps: largest change of a sample.

        Returns:
            (T, C) float64, scaled: no change within eps gives another path more than their sum along that path.
        """
        device = self.recogniser.device
        with torch.no_grad():
            wav, pdfs = torch.from_numpy(wave).double().to(device), torch.from_numpy(path.pdfs).to(device)
            bounds = self.scores.lead_bounds(wav, pdfs, eps)
            prior = self.recogniser.model.log_prior
            scores: np.ndarray = (self._acwt * (bounds - prior + prior[pdfs].unsqueeze(1))).cpu().numpy()
        return scores

    def certify(self, wave: np.ndarray, target: Sequence[str] | None, eps: Sequence[float]) -> Certificate:
        """Find the largest certified eps.

        Args:
            wave: (N,) float in [-1, 1].
            target: the text to certify against, beside any other.
            eps: those to try.

        Raises:
            ValueError: the front end has a step that has no bounds.
        """
        grid = sorted(set(eps))
        with torch.no_grad():
            self.scores.cells.check(self.scores.front_end, torch.from_numpy(wave).double().to(self.recogniser.device))
        clean = self._acwt * self._loglikes(wave)
        path = self.paths.best(clean)
        goal = None if target is None else tuple(target)
        if path is None:  # no text that ends: what the decoder writes then is not certified
            return Certificate((), goal, 0.0, 0.0, {})
        graph_score = path.score - float(clean[np.arange(len(clean)), path.pdfs].sum())
        leads: dict[float, tuple[float, float]] = {}

        def certified(value: float, which: int) -> bool:
            if value not in leads:
                upper = self.lead(wave, path, value)
                any_other = graph_score - self.paths.of_others(upper, path.words)
                over_target = any_other if goal is None else graph_score - self.paths.of_words(upper, goal)
                leads[value] = over_target, any_other
            return leads[value][which] > LEAD

        found = [_largest(grid, functools.partial(certified, which=which)) for which in (0, 1)]
        return Certificate(path.words, goal, 0.0 if goal is None else found[0], found[1], dict(sorted(leads.items())))


def _largest(grid: Sequence[float], holds: Callable[[float], bool]) -> float:
    """The largest value that a bisection finds to hold; 0 if there is none."""
    low, high = 0, len(grid)  # the first ``low`` hold, none from ``high`` on
    while low < high:
        middle = (low + high) // 2
        if holds(grid[middle]):
            low = middle + 1
        else:
            high = middle
    return grid[low - 1] if low else 0.0


def certify(
    recogniser: BaseRecogniser,
    waves: Mapping[str, np.ndarray],
    eps: Sequence[float],
    targets: Mapping[str, str | Sequence[str]] | None = None,
) -> dict[str, Certificate]:
    """Prove that no change of at most eps a sample makes the recogniser write something else.

    The proof is of the recogniser in exact arithmetic, with a Viterbi search that no beam cuts.

    Args:
        recogniser: hybrid, with a network of kind ``dnn`` or ``ensemble``.
        waves: utt -> (N,) samples, int16 or float in [-1, 1].
        eps: those to try, full scale 1; the largest that is certified is found by bisection.
        targets: utt -> a text that it is to be certified against, beside any other.

    Raises:
        ValueError: a recogniser that has no certificate, or an eps that is not positive.
        DataError: audio that cannot be used, or a target with a word that the graph does not have.
    """
    if not eps or not all(0 < value <= 1 for value in eps):
        raise ValueError(f"eps must be numbers in (0, 1] (full scale is 1), got {list(eps)}")
    missing = [utt for utt in waves if targets is not None and utt not in targets]
    if missing:
        raise ValueError(f"no target for utterance {missing[0]!r}; give one for each, or none at all")
    certifier = Certifier(recogniser)
    found = {}
    for utt, wave in recogniser.check_audio(waves, what="certified").items():
        text = None if targets is None else targets[utt]
        found[utt] = certifier.certify(wave, text.split() if isinstance(text, str) else text, eps)
    return found
