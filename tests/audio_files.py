"""Audio files of every kind that is read, made in memory by soundfile."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile

RATE = 16000
# name -> (container, coding) of libsndfile
KINDS = {
    "flac": ("FLAC", "PCM_16"), "flac24": ("FLAC", "PCM_24"), "flac8": ("FLAC", "PCM_S8"),
    "vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"),
    "wav": ("WAV", "PCM_16"), "wav24": ("WAV", "PCM_24"), "float": ("WAV", "FLOAT"), "sphere": ("NIST", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"), "aiff24": ("AIFF", "PCM_24"), "au": ("AU", "PCM_16"), "au float": ("AU", "FLOAT"),
    "caf": ("CAF", "PCM_16"), "w64": ("W64", "PCM_16"), "w64 32": ("W64", "PCM_32"),
}  # fmt: skip
LOSSY = ("vorbis", "opus", "mp3")


def speech(size: int = 8000, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Something like speech, (size,) or (size, channels) int16: a tone in noise."""
    rng = np.random.default_rng(seed)
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(size) / RATE)
    found = (tone[:, None] * np.arange(1, channels + 1) / channels + rng.normal(0, 200, (size, channels))).astype("i2")
    return found[:, 0] if channels == 1 else found


def encode(samples: np.ndarray, kind: str, rate: int = RATE) -> bytes:
    """A file of this kind."""
    container, coding = KINDS[kind]
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=container, subtype=coding)
    return stream.getvalue()


def write(path: Path, samples: np.ndarray, kind: str, rate: int = RATE) -> Path:
    """Write a file of this kind; its name need not say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(samples, kind, rate))
    return path


def without_count(mp3: bytes) -> bytes:
    """The MP3 file without its first frame, which counts the others."""
    from kaldi_uq.io.mp3 import frame_at

    first = frame_at(mp3, 0)
    assert first is not None
    return mp3[first.size :]
