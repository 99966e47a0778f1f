#!/usr/bin/env bash
# Build a language directory from a dictionary directory.
set -euo pipefail

engine=      # embedded or kaldi; empty: by KALDI_ROOT
word_loop=   # file with the words of a loop grammar; empty: no G.fst

help_message="Usage: $0 [options] <dict-dir> <oov-word> <tmp-dir> \\
         <lang-dir>
 e.g.: $0 --word-loop data/local/dict/words.txt \\
         data/local/dict '<SIL>' data/local/lang data/lang
Options:
  --word-loop <file>        write G.fst: any of these words after any other
  --engine embedded|kaldi   [by KALDI_ROOT]
<tmp-dir> is accepted as in Kaldi and not used."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

for f in "$1/lexicon.txt" ${word_loop:+"$word_loop"}; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file" >&2; exit 1; }
done
summary=$(kaldi-uq prepare-lang ${engine:+--engine "$engine"} ${word_loop:+--word-loop "$word_loop"} "$1" "$2" "$4")

echo "$0: $summary" >&2
