"""The digit model that comes with the package: it loads, hears, judges and can be attacked, and is as it was made."""

from __future__ import annotations

import glob
import hashlib
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kaldi_uq as uq
from kaldi_uq.audio.synth import EspeakSynthesizer, Voice
from kaldi_uq.detector.fit import load_detectors
from kaldi_uq.detector.normal import load_frame_quantiles
from kaldi_uq.io.digests import DIGESTS_FILE
from tests.conftest import REPO

RATE = 16000
MAX_BYTES = 2_000_000
DIGITS = uq.models.DIGITS


@pytest.fixture(scope="module")
def rec() -> uq.Recogniser:
    return uq.Recogniser.load(DIGITS, device="cpu")


def spoken(text: str, accent: str = "en-us", variant: str = "m3") -> np.ndarray:
    """A synthesised voice, in the quiet noise of a microphone; (N,) float32."""
    voice = Voice(accent=accent, variant=variant, rate=130, word_gap=2)
    samples = EspeakSynthesizer().synthesize(text, voice=voice, sample_rate=RATE) / 32768
    noise = 0.0003 * np.random.default_rng(0).standard_normal(len(samples) + RATE // 2)
    noise[RATE // 4 : RATE // 4 + len(samples)] += 0.4 * samples
    return noise.astype(np.float32)


def test_it_is_small_and_its_digests_hold() -> None:
    files = [path for path in DIGITS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
    checked = set()
    for digests in (path for path in files if path.name == DIGESTS_FILE):
        for line in digests.read_text().splitlines():
            expected, name = line.split("  ")
            assert hashlib.sha256((digests.parent / name).read_bytes()).hexdigest() == expected, name
            checked.add(name)
    assert {"final.safetensors", "final.mdl", "tree", "HCLG.fst", "words.txt"} <= checked


def test_no_file_is_more_than_data() -> None:
    """No pickle and no code, whose loading could run something."""
    suffixes = {path.suffix for path in DIGITS.rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".mdl", "", ".fst", ".txt", ".int", ".json", ".md"}


def test_setup_ships_every_file_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: asked.update(options))
    runpy.run_path(str(REPO / "setup.py"))
    patterns = asked["package_data"]["kaldi_uq.models"]
    place = DIGITS.parent
    shipped = {place / name for pattern in patterns for name in glob.glob(pattern, root_dir=place)}  # as setuptools
    files = {path for path in DIGITS.rglob("*") if path.is_file()}
    assert len(files) > 10 and files <= shipped


def test_the_name_needs_no_torch() -> None:
    script = "import sys, kaldi_uq as uq; print(uq.models.DIGITS); assert not {'torch', 'numpy'} & set(sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, check=True)
    assert Path(result.stdout.strip()) == DIGITS


def test_it_hears_every_digit(rec: uq.Recogniser) -> None:
    waves = {
        "up": spoken("zero one two three four", "en-gb", "f2"),
        "down": spoken("nine eight seven six five"),
        "oh": spoken("oh four oh", variant="m1"),
    }
    heard = {name: " ".join(one.words or ()) for name, one in rec.hear(waves).items()}
    assert heard == {"up": "zero one two three four", "down": "nine eight seven six five", "oh": "oh four oh"}


def test_loudness_does_not_matter(rec: uq.Recogniser) -> None:
    wav = spoken("three one four one five")
    heard = rec.hear({"loud": wav, "quiet": (0.05 * wav).astype(np.float32)})
    assert heard["loud"].words == heard["quiet"].words == tuple("three one four one five".split())


def test_its_detectors_judge(rec: uq.Recogniser) -> None:
    found = load_detectors(DIGITS / "detector")
    assert "all-joint" in found
    for detector in found.values():
        assert detector.threshold is not None and detector.fpr == 0.01
    assert load_frame_quantiles(DIGITS / "detector/frame_quantiles.json").model == rec.model_key
    wav = spoken("two seven")
    torn = wav.copy()
    torn[::7] += 0.3 * np.random.default_rng(1).standard_normal(len(torn[::7])).astype(np.float32)
    verdicts = uq.judge(rec, uq.load_detector(DIGITS), {"speech": wav, "torn": torn.clip(-1, 1)})
    assert not verdicts["speech"].attack and verdicts["speech"].hypothesis == "two seven"
    assert verdicts["torn"].score > verdicts["speech"].score


def test_the_card_says_what_must_be_said() -> None:
    card = (DIGITS / "MODEL_CARD.md").read_text()
    for word in ("Licence", "espeak-ng", "flite", "Free Spoken Digit Dataset", "not for", "false alarms", "seed"):
        assert word in card, word
