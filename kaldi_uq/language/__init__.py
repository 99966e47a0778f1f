"""Lexicon directories, language models, sentences."""
