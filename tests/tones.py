"""A network that hears the words of ``tests.tiny`` in waveforms: trained in a second."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kaldi_uq.recogniser.ctc import CtcRecogniser
from tests.tiny import RATE, make_waves

TOKENS = ("<blank>", "one", "three", "two")
SIZE, SHIFT = 160, 80  # samples of a frame, and from one to the next
NEAR = 2  # frames to each side that the network looks at


def num_frames(num_samples: int) -> int:
    return (num_samples - SIZE) // SHIFT + 1


class Tones(nn.Module):
    """Log energies of frames and two convolutions; zeros before and behind the waveform are all its padding."""

    def __init__(self, num_tokens: int = len(TOKENS), *, centred: bool = False, dropout: float = 0.1) -> None:
        super().__init__()
        self.centred = centred  # whether the mean over time is subtracted, which padding changes
        self.register_buffer("window", torch.hann_window(SIZE))
        self.first = nn.Conv1d(1 + SIZE // 2, 16, 2 * NEAR + 1)
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(16, num_tokens)

    def forward(self, wav: Tensor) -> Tensor:
        frames = F.pad(wav, (NEAR * SHIFT, NEAR * SHIFT)).unfold(1, SIZE, SHIFT)
        energies = (100 * torch.fft.rfft(frames * self.window).abs().square()).log1p() / 4
        if self.centred:
            energies = energies - energies.mean(1, keepdim=True)
        hidden = self.first(energies.transpose(1, 2)).relu()
        logits: Tensor = self.last(self.drop(hidden.transpose(1, 2)))
        return logits


@functools.cache
def trained(centred: bool = False) -> dict[str, Tensor]:
    """Weights of a network that hears the words: trained on the word of the loudest frequency of each frame."""
    torch.manual_seed(0)
    net = Tones(centred=centred)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    waves = [torch.from_numpy(wave)[None] for wave in make_waves(12, seed=1)[0].values()]
    for _ in range(30):
        for wav in waves:
            power = torch.fft.rfft(wav.unfold(1, SIZE, SHIFT) * net.window).abs().square()
            word = 1 + torch.bucketize(power.argmax(2) * RATE / SIZE, torch.tensor([900.0, 2200.0]))
            word = word.where(power.amax(2) > 1.0, 0)
            loss = F.cross_entropy(net(wav)[0], word[0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.state_dict()


def network(*, centred: bool = False) -> Tones:
    """A trained network."""
    net = Tones(centred=centred)
    net.load_state_dict(trained(centred))
    return net


def recogniser(**options: object) -> CtcRecogniser:
    """A recogniser of the three words."""
    return CtcRecogniser(network(), TOKENS, RATE, **{"num_frames": num_frames, **options})  # type: ignore[arg-type]
