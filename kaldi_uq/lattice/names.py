"""Names of what is measured of a lattice; here, so that they need no NumPy."""

from __future__ import annotations

LATTICE_STATISTICS = ("lattice_entropy", "lattice_depth", "mean_word_uncertainty", "max_word_uncertainty")
