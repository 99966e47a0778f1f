#!/usr/bin/env bash
# Build a language directory from a dictionary directory.
#
# Usage: $0 [options] <dict-dir> <oov-word> <tmp-dir> \
#          <lang-dir>
#  e.g.: $0 --word-loop data/local/dict/words.txt \
#          data/local/dict '<SIL>' data/local/lang data/lang
# <tmp-dir> is accepted as in Kaldi and not used.
set -euo pipefail

engine=      # embedded|kaldi [by KALDI_ROOT]
word_loop=   # <file>: write G.fst: any of the words of this file after any other

. utils/script.sh
[ $# -eq 4 ] || usage
. ./path.sh

lexicon=$1/lexicon.txt
[ ! -f "$1/lexiconp.txt" ] || lexicon=$1/lexiconp.txt # with probabilities of the pronunciations
need_files "" "$lexicon" ${word_loop:+"$word_loop"}
summary=$(kaldi-uq prepare-lang "${engine_opts[@]}" ${word_loop:+--word-loop "$word_loop"} "$1" "$2" "$4")

echo "$0: $summary" >&2
