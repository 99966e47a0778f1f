#!/usr/bin/env bash
# Make a language directory with the grammar of an ARPA language model.
#
# Usage: $0 [options] <lang-dir> <arpa-lm> \
#          <lexicon> <out-lang-dir>
#  e.g.: $0 data/lang data/local/lm/bigram.arpa.gz \
#          data/local/dict/lexicon.txt data/lang_test
# Copies <lang-dir> to <out-lang-dir>, which may be the same, and writes G.fst
# there. N-grams with a word that words.txt does not have are left out.
# <lexicon> is accepted as in Kaldi and not used: words.txt has its words.
set -euo pipefail

engine=      # embedded|kaldi [by KALDI_ROOT]

. utils/script.sh
[ $# -eq 4 ] || usage
. ./path.sh

need_files "" "$1/words.txt" "$1/L_disambig.fst" "$2"
mkdir -p "$4"
[ "$1" -ef "$4" ] || cp -rT "$1" "$4"
summary=$(kaldi-uq arpa-to-fst "${engine_opts[@]}" "$2" "$4" "$4/G.fst")

echo "$0: $summary" >&2
