"""Speech synthesis: reproducible, and never with another voice than the one asked for."""

from __future__ import annotations

import builtins
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import kaldi_uq.audio.synth
from kaldi_uq.audio.synth import EspeakSynthesizer, Voice
from kaldi_uq.errors import EngineError, MissingDependencyError

DIGITS = "oh zero one two three four five six seven eight nine".split()
PHRASE = "one two three"
# Sample-based, with breath noise, of the other sex, Klatt synthesis with its noise: each changes espeak-ng's state.
VARIANTS = ("m1", "f2", "belinda", "klatt", "adam")


@pytest.fixture(scope="module")
def synthesizer() -> EspeakSynthesizer:
    pytest.importorskip("espeakng_loader", reason="pip install espeakng-loader")
    return EspeakSynthesizer()


def speak(synthesizer: EspeakSynthesizer, text: str = PHRASE, sample_rate: int = 16000, **voice: object) -> np.ndarray:
    return synthesizer.synthesize(text, voice=Voice(**voice), sample_rate=sample_rate)


def phonemes(synthesizer: EspeakSynthesizer, text: str, accent: str) -> str:
    """Without the marks of stress, which depend on the place in the string."""
    return synthesizer.phonemes(text, voice=Voice(accent=accent)).replace("'", "").replace(",", "")


def level(samples: np.ndarray) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def frequency(samples: np.ndarray, sample_rate: int) -> float:
    """Fundamental frequency of the loudest 60 ms, by autocorrelation."""
    length = sample_rate * 60 // 1000
    power = np.convolve(samples.astype(np.float64) ** 2, np.ones(length), "valid")
    window = samples[np.argmax(power) :][:length].astype(np.float64)
    spectrum = np.fft.rfft(window, 4 * length)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: length // 2]
    low, high = sample_rate // 350, sample_rate // 60
    return sample_rate / (low + int(np.argmax(correlation[low:high])))


def test_samples_do_not_depend_on_what_was_spoken_before(synthesizer: EspeakSynthesizer) -> None:
    first = {variant: speak(synthesizer, variant=variant) for variant in VARIANTS}
    for variant in reversed(VARIANTS):
        np.testing.assert_array_equal(speak(synthesizer, variant=variant), first[variant])
    for one, other in itertools.combinations(first.values(), 2):
        assert not np.array_equal(one, other)


@pytest.mark.long
def test_samples_are_the_same_in_another_process_with_other_memory(synthesizer: EspeakSynthesizer) -> None:
    code = (
        "import hashlib; from kaldi_uq.audio.synth import EspeakSynthesizer, Voice; s = EspeakSynthesizer()\n"
        f"for v in {VARIANTS!r}:\n"
        f"    x = s.synthesize({PHRASE!r}, voice=Voice(variant=v), sample_rate=16000)\n"
        "    print(hashlib.sha256(x.tobytes()).hexdigest())"
    )
    root = str(Path(__file__).resolve().parent.parent)
    # MALLOC_PERTURB_ fills fresh and freed memory: whoever reads what he has not written hears another result.
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONPATH": root, "MALLOC_PERTURB_": value},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for value in ("85", "201")
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) == len(VARIANTS)


@pytest.mark.parametrize("accent", ["en-us", "en-gb", "en-gb-scotland", "en-029"])
def test_the_eleven_words_have_eleven_pronunciations(synthesizer: EspeakSynthesizer, accent: str) -> None:
    spoken = {word: phonemes(synthesizer, word, accent) for word in DIGITS}
    assert len(set(spoken.values())) == len(DIGITS)
    assert spoken["oh"] == "oU"  # not spelled


def test_a_word_sounds_the_same_before_and_after_any_other(synthesizer: EspeakSynthesizer) -> None:
    spoken = {word: phonemes(synthesizer, word, "en-gb") for word in DIGITS}
    for one, other in itertools.product(DIGITS, DIGITS):
        pair = phonemes(synthesizer, f"{one} {other}", "en-gb")
        # The glides of connected speech are welcome: "three-y-oh", "four-r-eight".
        pair = pair.replace("i:; ", "i: ").replace("r- ", " ")
        assert pair == f"{spoken[one]} {spoken[other]}"


def test_pitch_rate_and_tract_change_the_voice(synthesizer: EspeakSynthesizer) -> None:
    plain = speak(synthesizer, "nine")
    assert frequency(speak(synthesizer, "nine", pitch=80), 16000) > 1.2 * frequency(plain, 16000)
    assert len(speak(synthesizer, "nine", rate=240)) < 0.8 * len(plain)
    scaled = speak(synthesizer, "nine", tract_scale=1.1)
    assert len(scaled) == pytest.approx(len(plain) / 1.1, rel=0.01)
    assert frequency(scaled, 16000) == pytest.approx(1.1 * frequency(plain, 16000), rel=0.03)


def test_resampling_keeps_duration_and_level(synthesizer: EspeakSynthesizer) -> None:
    native, low = speak(synthesizer, sample_rate=22050), speak(synthesizer, sample_rate=16000)
    assert len(low) / 16000 == pytest.approx(len(native) / 22050, abs=1e-3)
    assert np.sqrt(np.mean(low.astype(float) ** 2)) == pytest.approx(
        np.sqrt(np.mean(native.astype(float) ** 2)), rel=0.05
    )


def test_an_unknown_variant_or_accent_is_an_error_not_the_default_voice(synthesizer: EspeakSynthesizer) -> None:
    with pytest.raises(ValueError, match="no variant 'M1'"):
        speak(synthesizer, variant="M1")
    with pytest.raises(ValueError, match="no accent 'en-moon'"):
        speak(synthesizer, accent="en-moon")
    synthesizer._accents["en-moon"] = "gmw/en-MOON"
    try:
        with pytest.raises(EngineError, match=r"did not load the voice 'gmw/en-MOON\+m1'"):
            speak(synthesizer, accent="en-moon")
        synthesizer._variants.append("ghost")  # espeak-ng itself says that this one is loaded
        with pytest.raises(EngineError, match=r"did not load the voice 'gmw/en-US\+ghost': status 0"):
            speak(synthesizer, variant="ghost")
    finally:
        del synthesizer._accents["en-moon"]
        synthesizer._variants.remove("ghost")


def test_variants_with_unset_memory_are_refused(synthesizer: EspeakSynthesizer) -> None:
    assert {"m1", "f2", "klatt"} <= set(synthesizer.variants())
    for variant in ("Reed", "caleb"):
        with pytest.raises(ValueError, match="to use"):
            speak(synthesizer, variant=variant)


def test_a_library_that_is_in_use_is_an_error(synthesizer: EspeakSynthesizer) -> None:
    with synthesizer._fresh_library():
        kaldi_uq.audio.synth._LOCK.release()
        try:
            with pytest.raises(EngineError, match="already loaded in this process"):
                speak(synthesizer)
        finally:
            kaldi_uq.audio.synth._LOCK.acquire()
    assert len(speak(synthesizer)) > 0


def test_a_long_installation_path_works(synthesizer: EspeakSynthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = speak(synthesizer)
    monkeypatch.setattr(kaldi_uq.audio.synth, "_MAX_DATA_PATH", 20)
    other = EspeakSynthesizer()
    assert other._root.is_relative_to(tempfile.gettempdir())
    np.testing.assert_array_equal(speak(other), expected)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_espeak(name: str, *args: object, **options: object) -> object:
        if name == "espeakng_loader":
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_espeak)
    with pytest.raises(MissingDependencyError, match="pip install espeakng-loader"):
        EspeakSynthesizer()


def test_voice_refuses_values_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"rate must be in \[80, 450\], got 40"):
        Voice(rate=40)


def test_an_empty_text_is_an_error(synthesizer: EspeakSynthesizer) -> None:
    with pytest.raises(ValueError, match="text is empty"):
        speak(synthesizer, " ")
