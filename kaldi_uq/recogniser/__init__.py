"""The recogniser: acoustic model, lexicon and decoder, opened once."""
