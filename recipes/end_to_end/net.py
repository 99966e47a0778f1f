#!/usr/bin/env python3
"""A recogniser in one network: from the waveform to characters, trained with the CTC loss on a data directory.

Put your own network in the place of Net; ``load`` is what --recogniser net.py:load calls.

 e.g.: ./net.py --kind dropout data/train exp/dropout
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torchaudio
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import DoneStamp, atomic_write, write_json
from kaldi_uq.io.waves import WaveBatch, read_waves, sample_rate_of, wave_batches, waves_digest
from kaldi_uq.nnet import deterministic, ensemble, mc_dropout, vmg
from kaldi_uq.nnet.base import AcousticModel
from kaldi_uq.recogniser.ctc import CtcRecogniser

KINDS = ("plain", "dropout", "ensemble", "vmg")
NUM_MELS, WIDTH, KERNEL = 40, 128, 5
DILATIONS = (1, 2, 2, 2)  # of the convolutions after the first one, which halves the rate


class Net(nn.Module):
    """Log energies of mel bands, and convolutions over time: waveforms (B, N) to logits (B, T, C).

    Nothing pads but the zeros before and behind the waveform, so that further zeros behind it, as in a batch, change
    no frame.
    """

    def __init__(self, sample_rate: int, num_tokens: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.hop, self.size = sample_rate // 100, sample_rate // 40  # 10 and 25 ms
        bins = 1 + self.size // 2
        self.register_buffer(
            "mel", torchaudio.functional.melscale_fbanks(bins, 60.0, sample_rate / 2, NUM_MELS, sample_rate)
        )
        self.register_buffer("window", torch.hann_window(self.size))
        layers: list[nn.Module] = [nn.BatchNorm1d(NUM_MELS), nn.Conv1d(NUM_MELS, WIDTH, KERNEL, stride=2)]
        for dilation in DILATIONS:
            layers += [nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(dropout)]
            layers.append(nn.Conv1d(WIDTH, WIDTH, KERNEL, dilation=dilation))
        layers += [nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(dropout), nn.Conv1d(WIDTH, num_tokens, 1)]
        self.layers = nn.Sequential(*layers)
        context = KERNEL - 1 + 2 * (KERNEL - 1) * sum(DILATIONS)  # frames of 10 ms around the one that is heard
        self.padding = context * self.hop // 2

    def num_frames(self, num_samples: int) -> int:
        """Frames of so many samples, or (B,) of (B,)."""
        return (num_samples - self.size) // (2 * self.hop) + 1

    def forward(self, wav: Tensor) -> Tensor:
        wav = F.pad(wav, (self.padding, self.padding))
        frames = wav.unfold(1, self.size, self.hop) * self.window
        energies = torch.fft.rfft(frames).abs().square() @ self.mel
        logits: Tensor = self.layers((energies + 1e-3).log().transpose(1, 2))
        return logits.transpose(1, 2)


def build(kind: str, sample_rate: int, num_tokens: int, seed: int = 0) -> AcousticModel:
    """A network with initial weights, as it is, random, or three of them."""

    def net() -> Net:
        return Net(sample_rate, num_tokens)

    if kind == "ensemble":
        return ensemble(net, 3, seed)
    torch.manual_seed(seed)
    if kind == "vmg":
        return vmg(net(), num_samples=10)
    return mc_dropout(net(), num_samples=10) if kind == "dropout" else deterministic(net())


def load(model_dir: Path, device: str = "") -> CtcRecogniser:
    """The recogniser that ``main`` has trained."""
    about = json.loads((Path(model_dir) / "net.json").read_text(encoding="utf-8"))
    model = build(about["kind"], about["sample_rate"], len(about["tokens"]))
    model.load_state_dict(load_file(Path(model_dir) / "net.safetensors"))
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    count = Net(about["sample_rate"], 1).num_frames
    return CtcRecogniser(model, about["tokens"], about["sample_rate"], num_frames=count, words=about["words"])


def train(
    model: AcousticModel, recogniser: CtcRecogniser, batches: list[WaveBatch], text: dict, num_epochs: int, seed: int
) -> None:
    """Train one network, or one member of an ensemble."""
    targets = {utt: torch.tensor(recogniser.ctc_tokens(words)) for utt, words in text.items()}
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_epochs * len(batches))
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    device = recogniser.device
    for epoch in range(num_epochs):
        model.train()
        losses = []
        for number in generator.permutation(len(batches)):
            batch = batches[number]
            # other voices: faster or slower, higher or lower, louder or softer
            speed, gain = generator.uniform(0.85, 1.15), generator.uniform(0.5, 1.5)
            wav = F.interpolate(torch.from_numpy(batch.wav)[:, None] * gain, scale_factor=1 / speed, mode="linear")[
                :, 0
            ]
            (log_post,) = model.log_post(wav.to(device), num_samples=1 if model.is_random else None)
            lengths = recogniser.num_frames((torch.from_numpy(batch.num_samples) / speed).long()).to(device)
            lengths = lengths.clamp(max=log_post.shape[1])
            tokens = [targets[utt] for utt in batch.utts]
            sizes = torch.tensor([len(part) for part in tokens], device=device)
            loss = F.ctc_loss(log_post.transpose(0, 1), torch.cat(tokens).to(device), lengths, sizes)
            optimizer.zero_grad()
            (loss + model.kl() / lengths.sum() / len(batches)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1} of {num_epochs}: loss {math.fsum(losses) / len(losses):.4f}", flush=True)
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, metavar="DATA-DIR", help="with wav.scp and text")
    parser.add_argument("model_dir", type=Path, metavar="MODEL-DIR")
    parser.add_argument("--kind", choices=KINDS, default="dropout", help="as it is, random, or several [dropout]")
    parser.add_argument("--num-epochs", type=int, default=25, help="[25]")
    parser.add_argument("--batch-s", type=int, default=40, help="audio of a minibatch with its padding, seconds [40]")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and minibatches [0]")
    args = parser.parse_args()
    data = DataDir.read(args.data_dir, need=("wav.scp", "utt2spk", "text"))
    rate = sample_rate_of(data)
    waves = read_waves(data, sample_rate=rate)
    text = {utt: data.words(utt) for utt in waves}
    words = sorted(set().union(*text.values()))
    tokens = ["<blank>", "|", *sorted(set("".join(words)))]
    options = {"kind": args.kind, "num_epochs": args.num_epochs, "batch_s": args.batch_s, "seed": args.seed}
    options["audio"] = waves_digest(waves)
    stamp = DoneStamp(args.model_dir, "train", options=options, inputs=[args.data_dir / "text", Path(__file__)])
    if stamp.is_current():
        return
    model = build(args.kind, rate, len(tokens), args.seed).to("cuda" if torch.cuda.is_available() else "cpu")
    recogniser = CtcRecogniser(model, tokens, rate, num_frames=Net(rate, 1).num_frames)
    batches = list(wave_batches(waves, args.batch_s * rate))
    for number, part in enumerate(model.members if args.kind == "ensemble" else [model]):
        train(part, recogniser, batches, text, args.num_epochs, args.seed + number)
    stamp.clear()
    write_json(args.model_dir / "net.json", {"kind": args.kind, "sample_rate": rate, "tokens": tokens, "words": words})
    with atomic_write(args.model_dir / "net.safetensors", "wb") as file:
        file.write(save(model.state_dict()))
    stamp.write()


if __name__ == "__main__":
    main()
