#!/usr/bin/env bash
# Score the hypotheses of a decoding directory against the text of its data: wer, wer.json.
set -euo pipefail

help_message="Usage: $0 <data-dir> <decode-dir>
 e.g.: $0 data/test exp/mono/decode_test"

. utils/parse_options.sh
if [ $# -ne 2 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

data=$1
dir=$2
[ -f "$data/text" ] || { echo "$0: error: $data/text: no such file" >&2; exit 1; }
compgen -G "$dir/hypotheses*" >/dev/null || { echo "$0: error: $dir has no hypotheses; steps/decode.sh makes them" >&2; exit 1; }

kaldi-uq score-text --json "$dir/wer.json" "$data/text" "$dir"/hypotheses* >"$dir/wer.tmp"
mv "$dir/wer.tmp" "$dir/wer"
cat "$dir/wer"
