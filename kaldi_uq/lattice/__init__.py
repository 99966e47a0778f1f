"""Lattices: from a decoding graph and scores, made deterministic, searched, and measured."""
