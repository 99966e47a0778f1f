"""``segments``: utterances as parts of recordings, cut where Kaldi's ``extract-segments`` cuts them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

MAX_OVERSHOOT_S = 0.5  # how far a segment may reach beyond the end of its recording, where it is then cut off
MIN_LENGTH_S = 0.10000000149011612  # 0.1 as single precision has it: extract-segments skips shorter ones
TO_THE_END = -1.0


@dataclass(frozen=True)
class Segment:
    """A part of a recording.

    Attributes:
        reco: the recording, a key of ``wav.scp``.
        start, end: times in seconds; an end of -1 stands for the end of the recording.
        channel: number of the channel, from 0; ``None`` for a recording that has only one.
    """

    reco: str
    start: float
    end: float
    channel: int | None = None

    @classmethod
    def parse(cls, value: str) -> Segment:
        """Read what follows the utterance in a line of ``segments``.

        Raises:
            ValueError: not ``<reco> <start> <end>`` with 0 <= start < end, or end -1, and perhaps a channel.

        >>> Segment.parse("call1 0.5 2")
        Segment(reco='call1', start=0.5, end=2.0, channel=None)
        """
        fields = value.split()
        if len(fields) not in (3, 4):
            raise ValueError(f"expected '<utt> <reco> <start> <end>', found {len(fields) + 1} fields")
        start, end = float(fields[1]), float(fields[2])
        if not 0 <= start < math.inf or not (start < end < math.inf or end == TO_THE_END):
            raise ValueError(f"expected 0 <= start < end, found {fields[1]} and {fields[2]}")
        if len(fields) == 4 and not re.fullmatch("[0-9]{1,9}", fields[3]):
            raise ValueError(f"expected a channel from 0, found {fields[3]!r}")
        return cls(fields[0], start, end, int(fields[3]) if len(fields) == 4 else None)

    def samples(self, num_samples: int, rate: int) -> tuple[int, int]:
        """The segment's first sample, and the one after its last, in a recording of ``num_samples`` samples.

        Raises:
            ValueError: the segment is not inside the recording, or too short.

        Source: Kaldi ``src/featbin/extract-segments.cc``.

        >>> Segment("call1", 0.00005, 0.5).samples(16000, 16000)
        (1, 8000)
        """
        import numpy as np  # here, so that no --help waits for it

        length = float(np.float32(num_samples) / np.float32(rate))  # Kaldi holds it in single precision
        if self.start > length:
            raise ValueError(f"it begins at {self.start:g} s, the recording has {length:.3f} s")
        if self.end > length + MAX_OVERSHOOT_S:
            raise ValueError(f"it ends at {self.end:g} s, the recording has {length:.3f} s")
        end = length if self.end < 0 or self.end > length else self.end
        if end - self.start < MIN_LENGTH_S:
            raise ValueError(f"{end - self.start:.3f} s, Kaldi's extract-segments takes more than {MIN_LENGTH_S:.1f} s")
        return int(self.start * rate + 0.5), min(int(end * rate + 0.5), num_samples)
