"""Audio files of any origin as one channel of one rate, by rules that are stated, and said where they were used.

Nothing is converted that nobody asked for: a gate must hear what the recogniser behind it hears.  Of several channels
that are the same, sample by sample, one is taken, which changes nothing; of others the user names the one that the
recogniser hears, or their mean if it hears that.  Another rate is resampled if the user asks for it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kaldi_uq.errors import DataError, OtherAudioError
from kaldi_uq.io.names import MEAN
from kaldi_uq.io.resample import Resampler


@dataclass(frozen=True)
class Converted:
    """What was done to a file.

    Attributes:
        from_hz, to_hz: the rate of the file and that of the result; ``None`` if they are the same.
        channels: channels of the file.
        channel: the one that was taken, from 1, or ``"mean"``; of channels that are the same 1.
        same: whether all channels were the same.
    """

    from_hz: int | None
    to_hz: int | None
    channels: int
    channel: int | str
    same: bool

    def record(self) -> dict[str, Any]:
        """It as a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        """It in words."""
        parts = []
        if self.from_hz is not None:
            parts.append(f"resampled from {self.from_hz} Hz to {self.to_hz} Hz, which can undo an attack or make one")
        if self.same:
            parts.append(f"{self.channels} channels, all the same")
        elif self.channels > 1:
            which = f"the {MEAN} of" if self.channel == MEAN else f"channel {self.channel} of"
            parts.append(f"{which} {self.channels} channels, which differ")
        return "; ".join(parts)


class Conversion(Resampler):
    """Makes one channel of one rate of audio files, as far as it may.

    Args:
        rate: the sample rate in Hz.
        resample: whether audio of another one is resampled; without, it is an error.
        channel: of channels that differ take this one, from 1, or their mean (``"mean"``); ``None``: they are an error.

    Attributes:
        done: name of the audio -> what was done to it; of audio that was as it should be, nothing.
    """

    def __init__(self, rate: float, *, resample: bool, channel: int | str | None = None) -> None:
        super().__init__(rate)
        self.resample, self.channel = resample, channel
        self.done: dict[str, Converted] = {}

    def one_channel(self, channels: np.ndarray, rate: int, name: str) -> np.ndarray:
        """The channel that is heard.

        Args:
            channels: (channels, N) float32 in [-1, 1].
            rate: their sample rate in Hz.
            name: name of the audio, for messages.

        Returns:
            (1, N) float32.

        Raises:
            OtherAudioError: channels or a rate that may not be converted; it has the options that allow it.
            DataError: there is no such channel.
        """
        count, other_rate = len(channels), rate != self.rate
        same = count > 1 and bool((channels == channels[0]).all())
        if isinstance(self.channel, int) and self.channel > count:
            raise DataError(f"{name}: no channel {self.channel}, there {'is' if count == 1 else 'are'} {count}")
        problems, remedies, options = list[str](), list[str](), list[str]()
        if other_rate and not self.resample:
            problems.append(f"sample rate {rate} Hz, expected {self.rate:g} Hz")
            remedies.append("have it resampled with --resample")
            options.append("--resample")
        if count > 1 and not same and self.channel is None:
            problems.append(f"{count} channels that differ, expected 1")
            remedies.append(f"name what the recogniser hears, with --channel 1 to {count} or {MEAN}")
            options += ["--channel", "1"]
        if problems:
            raise OtherAudioError(f"{name}: {'; '.join(problems)}; {' and '.join(remedies)}", tuple(options))
        if count > 1 or other_rate:
            channel: int | str = 1 if same or count == 1 or self.channel is None else self.channel
            self.done[name] = Converted(
                rate if other_rate else None, int(self.rate) if other_rate else None, count, channel, same
            )
        if count == 1 or same:
            return channels[:1]
        if self.channel == MEAN:
            return channels.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
        number = int(self.channel or 1)
        return channels[number - 1 : number]

    def anew(self) -> Conversion:
        """One that does the same, and has done nothing yet."""
        return Conversion(self.rate, resample=self.resample, channel=self.channel)
