"""The decoder underneath: one interface, on Kaldi's C++ as wheels (embedded), Kaldi's own binaries, or PyKaldi."""
