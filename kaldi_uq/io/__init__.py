"""Files: Kaldi's data directories, archives, symbol tables and models, WAV and SPHERE audio, atomic writes."""
