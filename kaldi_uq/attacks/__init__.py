"""Attacks at the waveform: targets, constraints, step rules, the loop, and checks that show an attack is meaningful.

The loop attacks anything that maps waveforms to log-posteriors of frames, such as a module of your own; it needs no
recogniser:

>>> import torch
>>> from kaldi_uq.attacks.constraints import LInf
>>> from kaldi_uq.attacks.loop import run_attack
>>> from kaldi_uq.types import AttackConfig
>>> weights = torch.linspace(-9, 9, 80).reshape(40, 2)
>>> def log_post(wav, num_samples, rows=None):  # (B, N) -> (M, B, T, C): 1 draw, frames of 40 samples, 2 classes
...     return torch.log_softmax(wav.unfold(1, 40, 40) @ weights, -1)[None]
>>> wav = torch.ones(1, 120) / 256  # one utterance of three frames, in which class 1 is heard
>>> sizes, lengths, targets = torch.tensor([120]), torch.tensor([3]), torch.zeros(1, 3, dtype=torch.long)
>>> config = AttackConfig(eps=0.05)
>>> result = run_attack(log_post, wav, sizes, targets, lengths, config, LInf(wav, sizes, config.eps))
>>> log_post(wav, sizes).argmax(-1).tolist(), log_post(result.wav, sizes).argmax(-1).tolist()
([[[1, 1, 1]]], [[[0, 0, 0]]])

With a recogniser :class:`kaldi_uq.attacks.craft.Attacker` does the rest: it aligns target texts, follows the posteriors
and asks the decoder.
"""
