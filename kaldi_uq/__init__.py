"""Uncertainty-aware acoustic models, waveform attacks and attack detection for Kaldi-style recipes.

Shape legend, used by every docstring of the package:

====  =====================================================================
M     members of an ensemble, or draws of a random network
B     utterances in a batch
T     frames of the longest utterance in the batch
C     classes: the pdfs of the HMM, ``pdf_id`` from 0
D     dimension of a feature vector
N     samples of the longest waveform in the batch
====  =====================================================================

The order is always ``(M, B, T, C)``; members are never folded into the batch.  Padded tensors come with
``lengths (B,)``, int64.  Waveforms are float32 in [-1, 1]; ``eps`` is on the same scale.  ``log_post`` is
log P(pdf | x), ``loglikes`` is ``log_post - log_prior``, unscaled: ``acwt`` is applied once, in the decoder.
"""

__version__ = "0.1.0"
