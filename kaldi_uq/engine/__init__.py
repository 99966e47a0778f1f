"""The decoder underneath: one interface, implemented on Kaldi's C++ as wheels (embedded) or on Kaldi's own binaries."""
