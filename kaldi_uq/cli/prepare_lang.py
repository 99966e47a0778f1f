"""Build a language directory from a dictionary directory: lexicon.txt or lexiconp.txt, silence_phones.txt,
nonsilence_phones.txt, optional_silence.txt, where there are any extra_questions.txt and, for whole-word models,
num_states.txt.

With --word-loop, G.fst lets every listed word follow every other, all alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.options import add_engine, directory, engine_of, start_logging
from kaldi_uq.io.files import read_lines
from kaldi_uq.io.lang import Lang


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dict_dir", type=directory, metavar="DICT-DIR", help="dictionary directory, such as data/local/dict"
    )
    parser.add_argument("oov_word", metavar="OOV-WORD", help="word of the lexicon that stands for unknown ones")
    parser.add_argument(
        "lang_dir", type=Path, metavar="LANG-DIR", help="language directory to write, such as data/lang"
    )
    parser.add_argument("--word-loop", metavar="FILE", help="words of the grammar, one a line; writes G.fst")
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.language.prepare import loop_grammar, prepare_lang

    start_logging()
    engine = engine_of(args)
    prepare_lang(args.dict_dir, args.oov_word, args.lang_dir, engine)
    if args.word_loop:
        lang = Lang.read(args.lang_dir)
        words = [word for _, line in read_lines(args.word_loop) for word in line.split()]
        lang.word_ids(words, where=args.word_loop)
        engine.compile_fst(loop_grammar(words, lang.words), args.lang_dir / "G.fst", sort="ilabel")
    lang = Lang.read(args.lang_dir)
    num_words = len(lang.words.keys() - {"<eps>", "#0", "<s>", "</s>"})
    num_phones = len(lang.phones) - len(lang.disambig) - 1  # 1: <eps>
    print(f"{args.lang_dir}: {num_words} words, {num_phones} phones")
