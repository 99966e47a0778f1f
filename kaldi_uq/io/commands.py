"""Commands in tables that do nothing but decode one file: these are read here, and no program is started.

``flac -c -d -s a.flac |`` says no more than that ``a.flac`` is to be read.  A command is taken for such a one only if
every word of it is understood: no shell characters outside quotes, one file, options that are known and change no
sample.  Whether a file is as it would have to be (``sox a.wav -r 16k -t wav - |`` resamples a file of another rate) is
seen when it is read, see :meth:`Decoding.obstacle`.

Source: the manuals of cat, gzip, flac, sph2pipe, SoX, FFmpeg and mpg123; POSIX.1-2017, Shell Command Language, 2.2
(quoting).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePath

# What the shell takes as it stands: plain characters, and whatever is quoted and keeps no meaning there.
_PLAIN = r"[\w./:,+=@%-]|\\[^\n\0]|'[^'\n\0]*'|\"[^\"$`\\!\n\0]*\""
_COMMAND = re.compile(rf"(?:(?:{_PLAIN})+[ \t]+)+")
# Names that programs take for more than a name: options, URLs and devices, patterns, pipes of SoX.
_NO_FILE = re.compile(r"-|[A-Za-z0-9_+.]+:|.*[*?\[\]|%]|~", re.DOTALL)
_RATE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(k?)")


@dataclass(frozen=True)
class Decoding:
    """What a command makes of a file.

    Attributes:
        program: name of the program.
        file: the file.
        rate, channels: sample rate in Hz and number of channels that it converts to; ``None``: those of the file.
        bits: bits that it rounds samples to; ``None``: it does not.
        channel: the channel that it picks, from 0; ``None``: all.
    """

    program: str
    file: str
    rate: int | None = None
    channels: int | None = None
    bits: int | None = None
    channel: int | None = None

    @property
    def of_bytes(self) -> bool:
        """Whether it hands on the bytes of any file, audio or not."""
        return self.program in ("cat", "gunzip")

    @property
    def kind(self) -> str:
        """The only kind of audio that the program reads; empty if there are several."""
        return {"flac": "FLAC", "sph2pipe": "SPHERE", "mpg123": "MP3"}.get(self.program, "")

    def obstacle(self, *, rate: int, channels: int, bits: int | None) -> str:
        """Why reading the file is not all that the command does; empty if it is.

        Args:
            rate: sample rate of the file in Hz.
            channels: number of its channels.
            bits: bits of its samples, ``None`` for floating point.

        >>> Decoding("sox", "a.wav", rate=16000).obstacle(rate=8000, channels=1, bits=16)
        'a.wav has 8000 Hz, and sox resamples it to 16000 Hz'
        """
        left = channels if self.channel is None else 1
        if self.rate not in (None, rate):
            return f"{self.file} has {rate} Hz, and {self.program} resamples it to {self.rate} Hz"
        if self.channels not in (None, left):
            return f"{self.file} has {left} channels, and {self.program} makes {self.channels} of them"
        if bits is None and self.program in ("sox", "ffmpeg"):
            return f"{self.file} holds floating point, and {self.program} rounds it"
        if bits is not None and self.bits is not None and bits > self.bits:
            return f"{self.file} has more than {self.bits} bits a sample, and {self.program} rounds it"
        return ""


def decoding_of(rxfilename: str) -> Decoding | None:
    """What a pipe decodes, if that is all it does; ``None`` for any other, and for what is no pipe.

    >>> decoding_of("flac -c -d -s 'my talk.flac' |")
    Decoding(program='flac', file='my talk.flac', rate=None, channels=None, bits=None, channel=None)
    >>> decoding_of("flac -c -d -s a.flac; rm b |"), decoding_of("sox a.wav -t wav - speed 0.9 |")
    (None, None)
    """
    command = rxfilename.strip(" \t")
    if not command.endswith("|") or not _COMMAND.fullmatch(command[:-1] + " "):
        return None
    program, *words = shlex.split(command[:-1])
    understand = _PROGRAMS.get(PurePath(program).name)
    try:
        found = understand(words) if understand else None
    except ValueError:
        return None
    return found if found and found.file and not _NO_FILE.match(found.file) else None


Options = dict[str, str]


def _take(words: Sequence[str], flags: Collection[str], values: Collection[str] = ()) -> tuple[Options, list[str]]:
    """The options at the beginning of some words, and the words behind them.

    Args:
        words: the words.
        flags: options that are known and stand alone.
        values: options that are known and are followed by a value.

    Raises:
        ValueError: an option is not known, lacks its value, or is there twice.
    """
    found: Options = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        name = rest.pop(0)
        if name in found or name not in (*flags, *values) or (name in values and not rest):
            raise ValueError(name)
        found[name] = rest.pop(0) if name in values else ""
    return found, rest


def _sort(words: Sequence[str], flags: Collection[str], values: Collection[str] = ()) -> tuple[Options, str]:
    """Options around one other word, and that word; arguments and errors of :func:`_take`."""
    options, rest = _take(words, flags, values)
    if not rest:
        raise ValueError("no file")
    more, others = _take(rest[1:], flags, values)
    if others or options.keys() & more.keys():
        raise ValueError("two files, or an option twice")
    return options | more, rest[0]


def _spread(words: Sequence[str], letters: str) -> list[str]:
    """Words with ``-dc`` as ``-d -c``, where all the letters are among those that are known."""
    together = re.compile(f"-[{letters}]+")
    return [part for word in words for part in ([f"-{c}" for c in word[1:]] if together.fullmatch(word) else [word])]


def _expect(is_right: bool) -> None:
    if not is_right:
        raise ValueError("another command")


def _number(text: str | None) -> int | None:
    """A count or a rate, such as ``16k``."""
    if text is None:
        return None
    match = _RATE.fullmatch(text)
    value = round(float(match[1]) * (1000 if match[2] else 1)) if match else 0
    _expect(value > 0)
    return value


def _cat(words: Sequence[str]) -> Decoding:
    _, file = _sort(words, ())
    return Decoding("cat", file)


def _gunzip(words: Sequence[str]) -> Decoding:
    """``gunzip -c`` of a file with the name that it wants."""
    options, file = _sort(_spread(words, "c"), ("-c", "--stdout"))
    _expect(len(options) == 1 and file.endswith(".gz"))
    return Decoding("gunzip", file)


def _zcat(words: Sequence[str]) -> Decoding:
    return _gunzip(["-c", *words])


def _gzip(words: Sequence[str]) -> Decoding:
    words = ["-d" if word == "--decompress" else word for word in _spread(words, "cd")]
    _expect(words.count("-d") == 1)
    return _gunzip([word for word in words if word != "-d"])


def _flac(words: Sequence[str]) -> Decoding:
    short = {"--decode": "-d", "--stdout": "-c", "--silent": "-s", "--totally-silent": "-s"}
    options, file = _sort([short.get(word, word) for word in _spread(words, "cds")], ("-c", "-d", "-s"))
    _expect({"-c", "-d"} <= options.keys())
    return Decoding("flac", file)


def _sph2pipe(words: Sequence[str]) -> Decoding:
    options, file = _sort(words, ("-p",), ("-f", "-c"))
    channel = options.get("-c")
    _expect(options.get("-f") in ("wav", "rif") and channel in (None, "1", "2"))
    return Decoding("sph2pipe", file, channel=None if channel is None else int(channel) - 1)


def _mpg123(words: Sequence[str]) -> Decoding:
    options, file = _sort(words, ("-q", "--quiet", "-m", "--mono"), ("-w", "--wav", "-r", "--rate"))
    _expect([options[name] for name in ("-w", "--wav") if name in options] == ["-"])
    rate = _number(options.get("-r") or options.get("--rate"))
    return Decoding("mpg123", file, rate=rate, channels=1 if {"-m", "--mono"} & options.keys() else None, bits=16)


def _ffmpeg(words: Sequence[str]) -> Decoding:
    """What stands before ``-i`` is about the input, what stands behind its file about the output."""
    at = words.index("-i")
    flags, values = ("-nostdin", "-hide_banner", "-nostats", "-y"), ("-loglevel", "-v")
    _, others = _take(words[:at], flags, values)
    _expect(not others)
    options, output = _sort(words[at + 2 :], (*flags, "-vn"), (*values, "-f", "-ar", "-ac", "-acodec", "-c:a"))
    _expect(output in ("-", "pipe:1", "pipe:") and options.get("-f") == "wav")
    _expect({options.get("-acodec"), options.get("-c:a")} <= {None, "pcm_s16le"})
    rate, channels = _number(options.get("-ar")), _number(options.get("-ac"))
    return Decoding("ffmpeg", words[at + 1], rate=rate, channels=channels, bits=16)


def _sox(words: Sequence[str]) -> Decoding:
    """``sox [-t TYPE] FILE -t wav [-r RATE] [-b BITS] [-c CHANNELS] [-e signed] - [remix CHANNEL]``."""
    _, rest = _take(words, ("-q", "-D", "-R", "-V0", "-V1", "-V2"), ("-t",))
    _expect(len(rest) > 1)
    file = rest[0]
    options, rest = _take(rest[1:], (), ("-t", "-r", "-b", "-c", "-e"))
    _expect(options.get("-t") in ("wav", "wavpcm") and rest[:1] == ["-"])
    _expect(options.get("-e", "signed") in ("signed", "signed-integer"))
    picks = len(rest) == 3 and rest[1] == "remix" and re.fullmatch("[1-9][0-9]?", rest[2]) is not None
    _expect(picks or len(rest) == 1)
    rate, bits, channels = (_number(options.get(name)) for name in ("-r", "-b", "-c"))
    return Decoding("sox", file, rate, channels, bits, channel=int(rest[2]) - 1 if picks else None)


_PROGRAMS: dict[str, Callable[[Sequence[str]], Decoding]] = {
    "cat": _cat, "gunzip": _gunzip, "zcat": _zcat, "gzip": _gzip, "flac": _flac, "sph2pipe": _sph2pipe,
    "sox": _sox, "ffmpeg": _ffmpeg, "mpg123": _mpg123,
}  # fmt: skip
