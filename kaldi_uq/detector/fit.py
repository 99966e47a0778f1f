"""Fits the detectors of a model on benign statistics, keeps them in a directory and finds them there again.

=========================  ===================================================================
``<statistic>``            two-sided Gaussian of one statistic, the paper's
``<statistic>-one-sided``  one-sided Gaussian: only large values are suspicious
``<statistic>-kde``        kernel density of one statistic
``all-joint``              all statistics together, each on both sides: judges by default
``all-mahalanobis``        multivariate Gaussian of all statistics together
``all-kde``                kernel density of all statistics together
=========================  ===================================================================

All statistics are those that one pass over the frames measures: what a search finds (``consistency``) and what lattices
tell (``lattice_entropy``, ...) is judged alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy.typing as npt

from kaldi_uq.detector.base import OneClassDetector
from kaldi_uq.detector.density import KernelDensityDetector
from kaldi_uq.detector.gaussian import GaussianDetector, MultivariateGaussianDetector
from kaldi_uq.detector.joint import JointDetector
from kaldi_uq.detector.normal import FILE_NAME, FrameQuantiles, load_frame_quantiles, save_frame_quantiles
from kaldi_uq.detector.store import load_detector, save_detector
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import DoneStamp
from kaldi_uq.results.names import APART, GATE
from kaldi_uq.results.names import DETECTOR_DIR as DETECTOR_DIR
from kaldi_uq.results.utterances import read_benign, statistics_table

ALL = "all"  # statistics together
_FORMS = ("", "-one-sided", "-kde")  # of the detectors of one statistic
_JOINT = (GATE, f"{ALL}-mahalanobis", f"{ALL}-kde")


def fit_detectors(
    benign: Mapping[str, npt.ArrayLike], fpr: float = 0.01, *, compare: bool = True
) -> dict[str, OneClassDetector]:
    """Fit every detector on benign utterances, and choose its threshold on them.

    The normal's own quantile trusts a tail that the statistics need not have, so the threshold is the quantile of the
    scores of these utterances.  A kernel density scores each of them by the density of the others, the joint detector
    by a fit on others.

    Args:
        benign: ``(B,)`` per statistic.
        fpr: false-positive rate of the thresholds.
        compare: whether to fit others than the paper's two-sided Gaussians.

    Returns:
        name -> detector, in the order of this module's table.

    Raises:
        DataError: there is no statistic, fewer than 2 utterances, or a value that is not finite.
    """
    if not benign:
        raise DataError("there is no statistic to fit a detector on")
    found: dict[str, OneClassDetector] = {name: GaussianDetector(statistic=name) for name in benign}
    if compare:
        found |= {f"{name}-one-sided": GaussianDetector(two_sided=False, statistic=name) for name in benign}
        found |= {f"{name}-kde": KernelDensityDetector([name]) for name in benign}
        every = tuple(name for name in benign if name not in APART) or tuple(benign)
        found[GATE] = JointDetector(every)
        if len(every) > 1:  # of one statistic, the others are there already
            joint = (MultivariateGaussianDetector(every), KernelDensityDetector(every))
            found |= dict(zip(_JOINT[1:], joint, strict=True))
    for detector in found.values():
        detector.fit(benign)
        unseen = isinstance(detector, JointDetector | KernelDensityDetector)
        detector.calibrate(fpr, None if unseen else benign)
    return found


def save_detectors(directory: str | os.PathLike[str], detectors: Mapping[str, OneClassDetector]) -> None:
    """Write each detector to ``<name>.json`` of a directory."""
    for name, detector in detectors.items():
        save_detector(detector, Path(directory) / f"{name}.json")


def load_detectors(directory: str | os.PathLike[str]) -> dict[str, OneClassDetector]:
    """Read all detectors of a directory: first those of this module's table in its order, then others by name.

    Raises:
        DataError: the directory holds no detector, or a file that is none.
    """
    paths = {path.stem: path for path in Path(directory).glob("*.json") if path.name != FILE_NAME}
    if not paths:
        raise DataError(f"{directory}: no detectors; kaldi-uq fit-detector makes them")
    found = {name: load_detector(path) for name, path in sorted(paths.items())}
    joint = next((found[name].statistics for name in _JOINT if name in found), ())
    order = [f"{statistic}{form}" for form in _FORMS for statistic in joint] + list(_JOINT)
    return {name: found[name] for name in (*order, *sorted(set(found) - set(order))) if name in found}


def detectors_of(
    detector_dir: str | os.PathLike[str] | None, scores: str | os.PathLike[str], fpr: float = 0.01, *, keep: bool = True
) -> dict[str, OneClassDetector]:
    """The detectors that are fitted on some scores: those of a directory, if they are, else new ones.

    Args:
        detector_dir: directory of detectors, such as ``MODEL-DIR/detector``; ``None``: fit new ones and keep none.
        scores: ``results.jsonl`` of the benign set; what is beside it about its frames goes with the detectors.
        fpr: false-positive rate of the thresholds.
        keep: whether new ones are written to the directory.

    Raises:
        DataError: the scores are missing, damaged or too few.
    """
    scores = Path(scores)
    benign = statistics_table(read_benign(scores))
    if detector_dir is None:
        return fit_detectors(benign, fpr)
    frames, kept = scores.parent / FILE_NAME, Path(detector_dir) / FILE_NAME
    inputs = [path for path in (scores, frames) if path.is_file()]
    stamp = DoneStamp(detector_dir, "fit", options={"fpr": fpr}, inputs=inputs)
    whole = (Path(detector_dir) / f"{GATE}.json").is_file()  # early releases had no such detector
    if not (whole and stamp.is_current() and frames.is_file() == kept.is_file()):
        found = fit_detectors(benign, fpr)
        if not keep:
            return found
        save_fit(detector_dir, found, load_frame_quantiles(frames) if frames.is_file() else None)
        stamp.write()
    # of an earlier fit there may be detectors of statistics that the model has no more
    found = load_detectors(detector_dir)
    return {name: detector for name, detector in found.items() if set(detector.statistics) <= set(benign)}


def save_fit(
    directory: str | os.PathLike[str], detectors: Mapping[str, OneClassDetector], frames: FrameQuantiles | None
) -> None:
    """Replace the detectors of a directory and what is normal in one frame; both are of the same benign audio."""
    (Path(directory) / ".done.fit").unlink(missing_ok=True)
    save_detectors(directory, detectors)
    if frames is not None:
        save_frame_quantiles(frames, Path(directory) / FILE_NAME)
    else:  # a file of an earlier fit would be about other audio
        (Path(directory) / FILE_NAME).unlink(missing_ok=True)
