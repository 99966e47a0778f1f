"""Names and order of models, attacks, statistics, detectors and checks in every table and figure.

Whatever is not listed here has its own name as its label and stands behind what is listed, sorted by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from kaldi_uq.lattice.names import LATTICE_STATISTICS
from kaldi_uq.nnet.config import MODEL_KINDS

# What a person reads for the models and the attacks of the recipes; the paper's fNN is the DNN.
MODEL_NAMES = {
    "dnn": "DNN",
    "tdnn": "TDNN",
    "ensemble": "ensemble",
    "dropout": "MC dropout",
    "bnn": "BNN",
    "mono": "GMM monophone",
    "tri": "GMM triphone",
}
ATTACK_NAMES = {"paper-pgd": "the paper's attack", "pgd": "a strong attack"}
ROBUST = "-robust"  # ending of a model's name: it was attacked while it was trained
ATTACK_ORDER = ("nes", "fgsm", "paper-pgd", "pgd")  # from the weakest to the strongest
# Attacks that know a detector.  The name is one of these, the statistic and what else sets it apart, with dashes.
KNOWING = ("adaptive", "orthogonal", "selective")
_KNOWS = re.compile(rf"(?:{'|'.join(KNOWING)})-(?P<statistic>[^-]+(?:-(?:joint|kde|mahalanobis))?)(?:-.*)?")
_AT_LEVEL = re.compile(r"(?P<attack>.+)-level(?P<level>[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)")
AGGREGATES = ("max", "mean", "q95")
MEASURES = ("predictive_entropy", "expected_entropy", "mutual_information", "variance", "akld")
DETECTOR_ORDER = (("gaussian", "two"), ("gaussian", "one"))
PAPER_STATISTIC = "max_predictive_entropy"
GATE = "all-joint"  # the detector that judges by default
CONSISTENCY = "consistency"  # a statistic of its own: a search finds it, and "all" do without it
DETECTOR_DIR = "detector"  # in the directory of a model
PROBABILITIES = (0.5, 0.9, 0.95, 0.99, 0.995, 0.999)  # of the quantiles that are kept of the frames of benign speech
APART = (CONSISTENCY, *LATTICE_STATISTICS)  # statistics that are judged alone: no gradient leads to them

# The checks of attacks in the order in which they are shown: what the value is, and what it is compared with.
CHECKS = {
    "eps_respected": ("change", "at most"),
    "rms_respected": ("RMS", "at most"),
    "snr_respected": ("SNR", "at least"),
    "length_kept": ("kept", "at least"),
    "eps_reaches_16_bit": ("steps of 16 bit", "at least"),
    "gradient_correct": ("error", "at most"),
    "gradient_reaches_audio": ("samples", "at least"),
    "gradient_on_every_frame": ("dead frames", "at most"),
    "loss_falls": ("utterances", "at least"),
    "success_grows_with_eps": ("drop", "at most"),
    "large_eps_always_succeeds": ("success", "at least"),
    "twice_the_steps_add_little": ("gain", "at most"),
    "restarts_saturate": ("gain", "at most"),
    "iterative_beats_one_step": ("lost", "at most"),
    "white_box_beats_transfer": ("lost", "at most"),
    "white_box_beats_black_box": ("lost", "at most"),
    "white_box_beats_noise": ("lost", "at most"),
    "no_sign_of_masked_gradients": ("lead", "at most"),
    "rescoring_agrees": ("same", "at least"),
    "undefended_model_falls": ("success", "at least"),
    "detectors_tell_attacks": ("constant ones", "at most"),
    "broken_detector_is_caught": ("AUROC", "at most"),
}


def model_name(model: str) -> str:
    """A model for people, by the name of its directory; whatever is not of the recipes keeps that name.

    >>> model_name("dropout"), model_name("dnn-robust"), model_name("mine")
    ('MC dropout', 'robust DNN', 'mine')
    """
    kind = model.removesuffix(ROBUST)
    name = MODEL_NAMES.get(kind, kind)
    return name if kind == model else f"robust {name}"


def attack_name(attack: str) -> str:
    """An attack for people, in a sentence: what it is, and in brackets the name that it has in tables and files.

    >>> attack_name("paper-pgd"), attack_name("pgd-level0.05"), attack_name("mine")
    ("the paper's attack (paper-pgd)", 'a strong attack (pgd-level0.05)', 'mine')
    """
    name = ATTACK_NAMES.get(split_level(attack)[0])
    return f"{name} ({attack})" if name else attack


def statistic_name(statistic: str) -> str:
    """A statistic for people, or several.

    >>> statistic_name("max_mutual_information")
    'max mutual information'
    """
    if statistic in ("all", GATE):
        return "all statistics" + (" jointly" if statistic == GATE else "")
    return statistic.replace("_", " ").replace("+", " and ").replace("akld", "aKLD").replace(" db", " dB")


def known_statistic(attack: str) -> str:
    """The statistic whose detector an adaptive attack knows, or nothing.

    >>> known_statistic("adaptive-all-joint"), known_statistic("selective-max_akld-fpr0.05"), known_statistic("pgd")
    ('all-joint', 'max_akld', '')
    """
    match = _KNOWS.fullmatch(attack)
    return match["statistic"] if match else ""


def at_level(attack: str, eps_level: float) -> str:
    """The name of an attack whose eps is for speech of a level; 0: eps is absolute.

    >>> at_level("pgd", 0.05), at_level("pgd-level0.05", 0.05), at_level("pgd", 0)
    ('pgd-level0.05', 'pgd-level0.05', 'pgd')
    """
    return f"{split_level(attack)[0]}-level{eps_level:g}" if eps_level else attack


def split_level(attack: str) -> tuple[str, float]:
    """An attack's name without the level that its eps is for, and the level; 0: eps is absolute.

    >>> split_level("pgd-2x-level0.05"), split_level("pgd")
    (('pgd-2x', 0.05), ('pgd', 0.0))
    """
    match = _AT_LEVEL.fullmatch(attack)
    return (match["attack"], float(match["level"])) if match else (attack, 0.0)


def _rank(value: str, order: Iterable[str]) -> tuple[int, str]:
    known = list(order)
    return (known.index(value) if value in known else len(known), value)


def model_key(model: str) -> tuple[int, str]:
    """Sort key: the paper's order, a robust model behind the one of its kind, then others by name."""
    return _rank(model.removesuffix(ROBUST), MODEL_KINDS)[0], model


def attack_key(attack: str) -> tuple[int, str, float]:
    """Sort key: from the weakest to the strongest, then others by name; behind each the same at a level."""
    name, level = split_level(attack)
    return *_rank(name, ATTACK_ORDER), level


def statistic_key(statistic: str) -> tuple[tuple[int, str], tuple[int, str]]:
    """Sort key: the aggregate over frames first, then the measure."""
    aggregate, _, measure = statistic.partition("_")
    return _rank(aggregate, AGGREGATES), _rank(measure, MEASURES)


def detector_key(row: Mapping[str, Any]) -> tuple[int, str, str]:
    """Sort key of a detection row: the paper's two-sided Gaussian, its one-sided form, then others by name."""
    name = (row["detector"], row["sided"])
    return (DETECTOR_ORDER.index(name) if name in DETECTOR_ORDER else len(DETECTOR_ORDER), *name)


def check_key(check: str) -> tuple[int, str]:
    """Sort key: of one run first, then of several, then others by name."""
    return _rank(check, CHECKS)


def check_name(check: str) -> str:
    """A check for people.

    >>> check_name("length_kept")
    'length kept'
    """
    return check.replace("_", " ").replace("16 bit", "16-bit grid")


def check_limit(check: str, limit: float) -> str:
    """What a check asks of its value.

    >>> check_limit("loss_falls", 0.9)
    'at least 0.9'
    """
    _, relation = CHECKS.get(check, ("", "limit"))
    return f"{relation} {limit:.4g}"


def check_value(check: str, value: float) -> str:
    """What was seen.

    >>> check_value("gradient_on_every_frame", 3)
    'dead frames 3'
    """
    noun, _ = CHECKS.get(check, ("", ""))
    return f"{noun} {value:.4g}".strip()
