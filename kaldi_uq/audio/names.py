"""Names and defaults of disturbances and of what is measured of audio alone; here, so that they need no NumPy."""

from __future__ import annotations

KINDS = ("white", "babble", "reverb", "gain", "uniform")  # of disturbances
NUM_TALKERS = 6  # talkers of a babble: enough that no single one is understood
DRR_DB = 5.0  # direct over reverberant energy: a talker a metre or two from the microphone

STATISTICS = ("level_db", "noise_floor_db")  # of the audio alone
