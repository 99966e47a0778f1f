"""One-class detectors of attacked audio: fitted on benign statistics only, no attack is ever seen in fitting.

=====================================  ==========================================================================
:class:`JointDetector`                 the default: all statistics together, suspicious on both sides
:class:`GaussianDetector`              the paper's: one statistic, a normal distribution, low density is an attack
:class:`MultivariateGaussianDetector`  several statistics together, Mahalanobis distance
:class:`KernelDensityDetector`         density without the normal assumption
:class:`IsolationForestDetector`       isolation by random cuts, for comparison
=====================================  ==========================================================================

Every score is oriented the same way: higher is more suspicious.  A class of one's own joins with :func:`register`.

Source: section 4.3 of the paper.
"""

from __future__ import annotations

from kaldi_uq.detector.base import OneClassDetector, register
from kaldi_uq.detector.curves import auroc, auroc_ci, roc, threshold_at_fpr, tpr_at_fpr
from kaldi_uq.detector.density import IsolationForestDetector, KernelDensityDetector
from kaldi_uq.detector.evaluate import evaluate_detection
from kaldi_uq.detector.fit import fit_detectors, load_detectors, save_detectors
from kaldi_uq.detector.gaussian import GaussianDetector, MultivariateGaussianDetector
from kaldi_uq.detector.joint import JointDetector
from kaldi_uq.detector.store import load_detector, save_detector

__all__ = [
    "GaussianDetector",
    "IsolationForestDetector",
    "JointDetector",
    "KernelDensityDetector",
    "MultivariateGaussianDetector",
    "OneClassDetector",
    "auroc",
    "auroc_ci",
    "evaluate_detection",
    "fit_detectors",
    "load_detector",
    "load_detectors",
    "register",
    "roc",
    "save_detector",
    "save_detectors",
    "threshold_at_fpr",
    "tpr_at_fpr",
]
