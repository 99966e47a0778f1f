"""The engine on the programs of a Kaldi installation."""
