#!/usr/bin/env bash
# Make a language directory with the grammar of an ARPA language model.
set -euo pipefail

engine=      # embedded or kaldi; empty: by KALDI_ROOT

help_message="Usage: $0 [options] <lang-dir> <arpa-lm> \\
         <lexicon> <out-lang-dir>
 e.g.: $0 data/lang data/local/lm/bigram.arpa.gz \\
         data/local/dict/lexicon.txt data/lang_test
Copies <lang-dir> to <out-lang-dir>, which may be the same, and writes G.fst
there. N-grams with a word that words.txt does not have are left out.
Options:
  --engine embedded|kaldi   [by KALDI_ROOT]
<lexicon> is accepted as in Kaldi and not used: words.txt has its words."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

for f in "$1/words.txt" "$1/L_disambig.fst" "$2"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file" >&2; exit 1; }
done
mkdir -p "$4"
[ "$1" -ef "$4" ] || cp -rT "$1" "$4"
summary=$(kaldi-uq arpa-to-fst ${engine:+--engine "$engine"} "$2" "$4" "$4/G.fst")

echo "$0: $summary" >&2
