"""Attacks at the waveform: targets, projected gradient descent, and the checks that show an attack is meaningful."""
