"""The engine on Kaldi's C++ as Python wheels."""
