"""Is this audio an attack on my recogniser?

The face of the package; the rooms behind it are for those who change it::

    import kaldi_uq as uq

    rec = uq.Recogniser.load("exp/ensemble")  # or uq.models.DIGITS, or uq.CtcRecogniser(module, tokens, ...)
    heard = rec.hear({"a": samples})  # words, statistics, frames of each; int16 or float, checked
    det = uq.load_detector("exp/ensemble")
    adv = uq.attacks.PGD(eps=0.02)(rec, {"a": samples}, uq.Say({"a": "one two"}))
    verdicts = uq.judge(rec, det, adv.waves)
    report = uq.check(rec, adv)  # is this attack meaningful?
    proof = uq.certify(rec, {"a": samples}, [1e-5, 1e-4])  # within which eps does every change leave the words alone?

Everywhere M is members or draws, B utterances, T frames, C classes (pdfs or tokens), D features, N samples; the order
is ``(M, B, T, C)``.  Audio in Python is float32 in [-1, 1]; ``eps`` is on that scale.

Names are imported when they are first used: ``import kaldi_uq`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from kaldi_uq import attacks as attacks
    from kaldi_uq import models as models
    from kaldi_uq.attacks.attack import Adversarial as Adversarial
    from kaldi_uq.attacks.checks.one_run import check as check
    from kaldi_uq.attacks.consistency import consistency as consistency
    from kaldi_uq.attacks.goal import Say as Say
    from kaldi_uq.attacks.goal import Untargeted as Untargeted
    from kaldi_uq.certificate.certify import Certificate as Certificate
    from kaldi_uq.certificate.certify import certify as certify
    from kaldi_uq.detector import GaussianDetector as GaussianDetector
    from kaldi_uq.detector import IsolationForestDetector as IsolationForestDetector
    from kaldi_uq.detector import JointDetector as JointDetector
    from kaldi_uq.detector import KernelDensityDetector as KernelDensityDetector
    from kaldi_uq.detector import MultivariateGaussianDetector as MultivariateGaussianDetector
    from kaldi_uq.detector import OneClassDetector as OneClassDetector
    from kaldi_uq.detector import evaluate_detection as evaluate_detection
    from kaldi_uq.detector import fit_detectors as fit_detectors
    from kaldi_uq.detector import load_detector as load_detector
    from kaldi_uq.detector import save_detector as save_detector
    from kaldi_uq.detector.judge import Verdict as Verdict
    from kaldi_uq.detector.judge import judge as judge
    from kaldi_uq.errors import KaldiUqError as KaldiUqError
    from kaldi_uq.io.wav import read_wav as read_wav
    from kaldi_uq.io.wav import write_wav as write_wav
    from kaldi_uq.nnet import deterministic as deterministic
    from kaldi_uq.nnet import ensemble as ensemble
    from kaldi_uq.nnet import mc_dropout as mc_dropout
    from kaldi_uq.nnet import vmg as vmg
    from kaldi_uq.recogniser.base import BaseRecogniser as BaseRecogniser
    from kaldi_uq.recogniser.ctc import CtcRecogniser as CtcRecogniser
    from kaldi_uq.recogniser.heard import Heard as Heard
    from kaldi_uq.recogniser.recogniser import Recogniser as Recogniser
    from kaldi_uq.results.utterances import statistics_table as statistics_table

# name -> module
_PLACES = {
    "Adversarial": "attacks.attack",
    "BaseRecogniser": "recogniser.base",
    "Certificate": "certificate.certify",
    "CtcRecogniser": "recogniser.ctc",
    "GaussianDetector": "detector",
    "Heard": "recogniser.heard",
    "IsolationForestDetector": "detector",
    "JointDetector": "detector",
    "KaldiUqError": "errors",
    "KernelDensityDetector": "detector",
    "MultivariateGaussianDetector": "detector",
    "OneClassDetector": "detector",
    "Recogniser": "recogniser.recogniser",
    "Say": "attacks.goal",
    "Untargeted": "attacks.goal",
    "Verdict": "detector.judge",
    "attacks": "",
    "certify": "certificate.certify",
    "check": "attacks.checks.one_run",
    "consistency": "attacks.consistency",
    "deterministic": "nnet",
    "ensemble": "nnet",
    "evaluate_detection": "detector",
    "fit_detectors": "detector",
    "judge": "detector.judge",
    "load_detector": "detector",
    "mc_dropout": "nnet",
    "models": "",
    "read_wav": "io.wav",
    "save_detector": "detector",
    "statistics_table": "results.utterances",
    "vmg": "nnet",
    "write_wav": "io.wav",
}

__all__ = ["__version__", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _PLACES[name]
    if not place:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{place}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
