"""Lattices: from a decoding graph and scores, made deterministic, searched, and measured."""

# names of what is measured, which commands know without the code that measures
LATTICE_STATISTICS = ("lattice_entropy", "lattice_depth", "mean_word_uncertainty", "max_word_uncertainty")
