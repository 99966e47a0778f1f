"""The face of the package: what ``import kaldi_uq as uq`` gives, as its docstring shows it."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaldi_uq as uq
from kaldi_uq.errors import DataError
from kaldi_uq.recogniser.hybrid import HybridModel
from kaldi_uq.training.config import TrainConfig
from tests import tiny
from tests.conftest import REPO
from tests.tiny import FRONT_END, TinySystem


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"))


@pytest.fixture(scope="module")
def model_dir(system: TinySystem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model with its detectors, as a recipe leaves it."""
    place = tmp_path_factory.mktemp("exp") / "dnn"
    config = TrainConfig(num_epochs=30, num_viterbi_epochs=0, batch_size=64, learning_rate=0.01)
    system.trainer(place, HybridModel(FRONT_END, system.network()), config).run()
    shutil.copytree(system.graph, place / "graph")
    shutil.copytree(system.lang.path, place / "lang")
    recogniser = uq.Recogniser.load(place)
    detectors = uq.fit_detectors(uq.statistics_table(recogniser.hear(system.waves).values()))
    for name, detector in detectors.items():
        uq.save_detector(detector, place / "detector" / f"{name}.json")
    return place


def test_every_name_of_the_face_is_there() -> None:
    for name in uq.__all__:
        assert getattr(uq, name) is not None
    assert set(dir(uq)) >= set(uq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Recognizer'"):
        uq.Recognizer  # noqa: B018


def test_names_of_the_type_checker_are_those_of_the_face() -> None:
    source = Path(importlib.import_module("kaldi_uq").__file__ or "").read_text()
    declared = {line.split(" as ")[1].strip() for line in source.splitlines() if line.startswith("    from kaldi_uq")}
    assert declared == set(uq.__all__) - {"__version__"}
    assert (REPO / "kaldi_uq/py.typed").is_file()


def test_importing_the_package_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, kaldi_uq; assert not {'torch', 'numpy', 'scipy', 'sklearn'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)


def test_the_example_of_the_docstring(system: TinySystem, model_dir: Path) -> None:
    utt = next(iter(system.waves))
    samples = (system.waves[utt] * 32767).astype(np.int16)
    rec = uq.Recogniser.load(model_dir)
    heard = rec.hear({"a": samples})
    assert heard["a"].words == tuple(system.text[utt])
    assert set(heard["a"].statistics) >= {"max_predictive_entropy", "mean_predictive_entropy"}
    det = uq.load_detector(model_dir)
    assert isinstance(det, uq.JointDetector) and set(det.statistics) == set(heard["a"].statistics)
    target = next(word for word in tiny.TONES if (word,) != heard["a"].words)
    adv = uq.attacks.PGD(eps=0.1, num_steps=60)(rec, {"a": samples}, uq.Say({"a": target}))
    assert np.abs(adv.waves["a"] - samples / 32768).max() <= 0.1
    assert rec.hear(adv.waves)["a"].words == (target,)
    verdicts = uq.judge(rec, det, adv.waves)
    assert verdicts["a"].hypothesis == target
    assert verdicts["a"].attack == bool(verdicts["a"].score > det.require_threshold())
    report = uq.check(rec, adv)
    assert all(check["passed"] for check in report.values()), report


@pytest.mark.long
def test_an_adaptive_attack_knows_a_fitted_detector(system: TinySystem, model_dir: Path) -> None:
    rec, det = uq.Recogniser.load(model_dir), uq.load_detector(model_dir, "max_predictive_entropy")
    utt = next(iter(system.waves))
    spoken = {utt: list(system.text[utt])}
    attack = uq.attacks.Adaptive([det], eps=0.1, num_steps=40)
    adv = attack(rec, {utt: system.waves[utt]}, uq.Say(spoken=spoken))
    assert {"lambda", "rounds", "excess", "passes"} <= set(adv.records[utt])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x: x * 32768, "samples reach .*, expected at most 1"),
        (lambda x: np.stack([x, x]), "expected one channel"),
        (lambda x: np.where(np.arange(len(x)) == 7, np.nan, x), "NaN or infinite, the first at 7"),
        (lambda x: (x * 2**20).astype(np.int32), "int32, expected int16 or float"),
        (lambda x: x[:10], "the shortest that can be judged"),
    ],
)
def test_audio_that_would_be_misheard_is_refused(
    system: TinySystem, model_dir: Path, change: Any, problem: str
) -> None:
    utt = next(iter(system.waves))
    with pytest.raises(DataError, match=f"a: .*{problem}"):
        uq.Recogniser.load(model_dir).hear({"a": change(system.waves[utt])})
