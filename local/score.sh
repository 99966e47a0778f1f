#!/usr/bin/env bash
# Score the hypotheses of a decoding directory against the text of its data: wer, wer.json.
#
# Usage: $0 <data-dir> <decode-dir>
#  e.g.: $0 data/test exp/mono/decode_test
set -euo pipefail

. utils/script.sh
[ $# -eq 2 ] || usage
in_recipe
. ./path.sh

need_files "" "$1/text"
compgen -G "$2/hypotheses*" >/dev/null || die "$2 has no hypotheses; steps/decode.sh makes them"

kaldi-uq score-text --json "$2/wer.json" "$1/text" "$2"/hypotheses* >"$2/wer.tmp"
mv "$2/wer.tmp" "$2/wer"
cat "$2/wer"
