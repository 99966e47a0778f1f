"""Speech synthesis through the espeak-ng shared library: the same text and voice give the same samples, always.

espeak-ng keeps the phase of its pitch flutter, echo buffers and the gender of the last voice from one call to the
next, and seeds its noise from the clock.  Therefore every call loads the library afresh, sets the seed, and unloads it:
a few milliseconds, and the result depends on nothing that was spoken before.  The two variants for which that is not
enough, ``Reed`` and ``caleb``, are refused: with Klatt synthesis and breath together espeak-ng 1.52 reads memory that
it has not set.

The library comes with the package ``espeakng-loader``, which is GPL-3 and therefore optional; nothing else of this
package imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from kaldi_uq.errors import EngineError, MissingDependencyError

# Constants of espeak-ng's speak_lib.h.
_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_IPA = 2
_RATE, _VOLUME, _PITCH, _RANGE, _WORDGAP = 1, 2, 3, 4, 7

# espeak-ng copies the path of its data into a buffer of 160 bytes and appends file names to it.
_MAX_DATA_PATH = 110

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_LOCK = threading.Lock()  # one library, one state: calls from two threads would mix


class _VoiceInfo(ctypes.Structure):
    """``espeak_VOICE``."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),  # priority byte, name, NUL, repeated; ended by a zero priority
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Voice:
    """A voice: who speaks, and how.

    Attributes:
        accent: a language of espeak-ng, e.g. ``en-us``; see :meth:`EspeakSynthesizer.accents`.
        variant: a file of espeak-ng's ``voices/!v``, e.g. ``m1`` or ``f2``; see :meth:`EspeakSynthesizer.variants`.
        pitch: pitch, 0 to 99; 50 is the variant's own.
        pitch_range: movement of the pitch, 0 (monotone) to 99; 50 is the variant's own.
        rate: words a minute, 80 to 450.
        word_gap: pause between words in units of 10 ms (at the default rate).
        volume: volume, 1 to 200.  Many variants reach full scale at 100, where espeak-ng starts to compress; at 30 none
            does.
        tract_scale: factor on all frequencies: a shorter (> 1) or longer (< 1) vocal tract; pitch and rate follow.
    """

    accent: str = "en-us"
    variant: str = "m1"
    pitch: int = 50
    pitch_range: int = 50
    rate: int = 160
    word_gap: int = 0
    volume: int = 100
    tract_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("pitch", 0, 99),
            ("pitch_range", 0, 99),
            ("rate", 80, 450),
            ("word_gap", 0, 200),
            ("volume", 1, 200),
            ("tract_scale", 0.7, 1.4),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], got {getattr(self, name)}")


class EspeakSynthesizer:
    """Text to speech.  Several processes can each have one; within a process the calls wait for each other.

    Raises:
        MissingDependencyError: ``espeakng-loader`` is not installed.
        EngineError: its library or its data are missing, or are not those of espeak-ng 1.52 or newer.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise MissingDependencyError(
                "speech synthesis needs the espeak-ng library: pip install espeakng-loader"
            ) from None
        self._library = Path(espeakng_loader.get_library_path())
        self._data = Path(espeakng_loader.get_data_path())
        for path in (self._library, self._data / "phontab", self._data / "voices" / "!v"):
            if not path.exists():
                raise EngineError(f"{path}: no such file; install again: pip install --force-reinstall espeakng-loader")
        self._variants = self.variants()
        self._root = self._short_path(self._data)
        with self._fresh_library() as lib:
            self.version = _text(lib.espeak_Info(None)).split()[0]
            self._accents = _list_accents(lib)

    def accents(self) -> list[str]:
        """All values of ``Voice.accent``, sorted: the languages that espeak-ng knows."""
        return sorted(self._accents)

    def variants(self) -> list[str]:
        """All values of ``Voice.variant``, sorted; without those whose samples differ from call to call."""
        files = (path for path in (self._data / "voices" / "!v").iterdir() if path.is_file())
        return sorted(path.name for path in files if _is_reproducible(path))

    def synthesize(self, text: str, *, voice: Voice, sample_rate: int) -> np.ndarray:
        """Speak a text.

        Args:
            text: the text, spoken in one breath; punctuation makes pauses.
            voice: voice that speaks it.
            sample_rate: sample rate of the result in Hz.

        Returns:
            (N,) int16, at espeak-ng's own level, with its own short silence at the end.

        Raises:
            ValueError: an empty text, or an accent or variant that espeak-ng does not have.
            EngineError: the library failed, or took another voice than the one asked for.
        """
        if not text.strip():
            raise ValueError("text is empty")
        chunks: list[bytes] = []

        def collect(samples: int | None, count: int, _events: int | None) -> int:
            if samples and count > 0:
                chunks.append(ctypes.string_at(samples, 2 * count))
            return 0

        callback = _Callback(collect)  # must live as long as the library may call it
        with self._fresh_library() as lib:
            lib.espeak_SetSynthCallback(callback)
            self._set_voice(lib, voice)
            encoded = text.encode() + b"\0"
            status = lib.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
            if status != 0 or lib.espeak_Synchronize() != 0:
                raise EngineError(f"espeak-ng failed with status {status} at {text!r}")
            native_rate = self._native_rate
        samples = np.frombuffer(b"".join(chunks), np.int16)
        if not np.any(samples):
            raise EngineError(f"espeak-ng made no sound of {text!r} with {voice}")
        return _resample(samples, native_rate, voice.tract_scale, sample_rate)

    def phonemes(self, text: str, *, voice: Voice, ipa: bool = False) -> str:
        """The phonemes that :meth:`synthesize` would speak, in espeak-ng's mnemonics or the phonetic alphabet."""
        with self._fresh_library() as lib:
            self._set_voice(lib, voice)
            pointer = ctypes.c_char_p(text.encode())
            return _text(lib.espeak_TextToPhonemes(ctypes.byref(pointer), _CHARS_UTF8, _IPA if ipa else 0)).strip()

    def _set_voice(self, lib: ctypes.CDLL, voice: Voice) -> None:
        if voice.accent not in self._accents:
            raise ValueError(f"espeak-ng has no accent {voice.accent!r}; it has {', '.join(self.accents())}")
        if voice.variant not in self._variants:
            raise ValueError(f"espeak-ng has no variant {voice.variant!r} to use; it has {', '.join(self._variants)}")
        name = f"{self._accents[voice.accent]}+{voice.variant}"
        status = lib.espeak_SetVoiceByName(name.encode())
        # With an unknown variant espeak-ng reports success and speaks with its default voice.
        current = _text(lib.espeak_GetCurrentVoice().contents.identifier or b"")
        if status != 0 or current != name:
            raise EngineError(f"espeak-ng did not load the voice {name!r}: status {status}, voice now {current!r}")
        for parameter, value in (
            (_RATE, voice.rate),
            (_VOLUME, voice.volume),
            (_PITCH, voice.pitch),
            (_RANGE, voice.pitch_range),
            (_WORDGAP, voice.word_gap),
        ):
            if lib.espeak_SetParameter(parameter, value, 0) != 0:
                raise EngineError(f"espeak-ng refused parameter {parameter} = {value}")

    @contextlib.contextmanager
    def _fresh_library(self) -> Iterator[ctypes.CDLL]:
        """The library in the state that it has right after loading; it is gone afterwards."""
        with _LOCK:
            if _is_loaded(self._library):
                raise EngineError(
                    f"{self._library} is already loaded in this process, so its state cannot be reset; "
                    "run the synthesis in a process of its own"
                )
            lib = ctypes.CDLL(str(self._library))
            try:
                _declare(lib, self._library)
                rate = lib.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self._root), _INITIALIZE_DONT_EXIT)
                if rate <= 0:
                    raise EngineError(f"espeak-ng cannot read its data in {self._data} (status {rate})")
                self._native_rate = int(rate)
                lib.espeak_ng_SetRandSeed(1)
                try:
                    yield lib
                finally:
                    lib.espeak_Terminate()
            finally:
                ctypes.CDLL(None).dlclose(ctypes.c_void_p(lib._handle))

    def _short_path(self, data: Path) -> Path:
        """A path to the directory that holds ``espeak-ng-data``, short enough for espeak-ng."""
        if len(os.fsencode(data)) <= _MAX_DATA_PATH:
            return data.parent
        self._link = tempfile.TemporaryDirectory(prefix="espeak-")
        os.symlink(data, Path(self._link.name) / "espeak-ng-data")
        return Path(self._link.name)


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace")


def _is_reproducible(variant: Path) -> bool:
    words = {line.split()[0] for line in variant.read_text(errors="replace").splitlines() if line.strip()}
    return not {"klatt", "breath"} <= words


def _is_loaded(library: Path) -> bool:
    try:
        handle = ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD)._handle
    except OSError:
        return False
    ctypes.CDLL(None).dlclose(ctypes.c_void_p(handle))
    return True


def _declare(lib: ctypes.CDLL, path: Path) -> None:
    """Argument and result types; what is not named here takes and gives an int."""
    if not hasattr(lib, "espeak_ng_SetRandSeed"):
        raise EngineError(f"{path}: not espeak-ng 1.52 or newer; pip install --upgrade espeakng-loader")
    unsigned, pointer = ctypes.c_uint, ctypes.c_void_p
    lib.espeak_Info.argtypes = [pointer]
    lib.espeak_Info.restype = ctypes.c_char_p
    lib.espeak_GetCurrentVoice.restype = ctypes.POINTER(_VoiceInfo)
    lib.espeak_ListVoices.argtypes = [pointer]
    lib.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_VoiceInfo))
    lib.espeak_Synth.argtypes = [
        ctypes.c_char_p, ctypes.c_size_t, unsigned, ctypes.c_int, unsigned, unsigned, pointer, pointer
    ]  # fmt: skip
    lib.espeak_TextToPhonemes.argtypes = [pointer, ctypes.c_int, ctypes.c_int]
    lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
    lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]


def _list_accents(lib: ctypes.CDLL) -> dict[str, str]:
    """Language -> identifier of the voice that gives it the highest priority (the lowest number)."""
    best: dict[str, tuple[int, str]] = {}
    voices = lib.espeak_ListVoices(None)
    index = 0
    while voices[index]:
        info = voices[index].contents
        identifier = _text(info.identifier)
        address = info.languages
        while priority := ctypes.string_at(address, 1)[0]:
            language = ctypes.string_at(address + 1)
            address += len(language) + 2
            best[_text(language)] = min((priority, identifier), best.get(_text(language), (256, "")))
        index += 1
    return {language: identifier for language, (_, identifier) in best.items()}


def _resample(samples: np.ndarray, native_rate: int, scale: float, sample_rate: int) -> np.ndarray:
    """To ``sample_rate``, with all frequencies multiplied by ``scale``."""
    # A grid of 50 Hz (0.2 %) keeps the two factors of the polyphase filter small.
    source = native_rate if scale == 1.0 else round(native_rate * scale / 50) * 50
    divisor = math.gcd(source, sample_rate)
    if source == sample_rate:
        return samples.copy()
    resampled = resample_poly(samples.astype(np.float64), sample_rate // divisor, source // divisor)
    return np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
