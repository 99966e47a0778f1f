#!/usr/bin/env bash
# Decode a data directory with a GMM system and score it: hypotheses, wer, and with the kaldi engine lat.*.gz.
#
# Usage: $0 [options] <graph-dir> <data-dir> <decode-dir>
#  e.g.: $0 --nj 4 exp/mono/graph data/test exp/mono/decode_test
# The model is that of the directory above <decode-dir>.
set -euo pipefail

nj=2               # <n>: parallel jobs; they never change a word
cmd=utils/run.pl   # <command>: how to run the jobs
engine=            # embedded|kaldi [by KALDI_ROOT]
acwt=0.1           # <scale>: acoustic scale
beam=13            # <b>: decoding beam
max_active=7000    # <n>: tokens a frame

. utils/script.sh
[ $# -eq 3 ] || usage
. ./path.sh

graph=$1
data=$2
dir=$3
srcdir=$(dirname "$dir")

need_files steps/train_mono.sh "$srcdir/final.mdl"
need_files utils/mkgraph.sh "$graph/HCLG.fst"
need_feats "$data"
check_nj
hold_dir "$dir"
split_for_jobs "$data"
rm -f "$dir"/hypotheses.* "$dir"/lat.*.gz "$dir/num_jobs" "$dir/wer" "$dir/wer.json"

$cmd "JOB=1:$nj" "$dir/log/decode.JOB.log" \
  kaldi-uq decode-gmm "${engine_opts[@]}" --job JOB --lattices --acwt "$acwt" --beam "$beam" --max-active "$max_active" \
  "$data/split$nj/JOB" "$srcdir" "$graph" "$dir/hypotheses.JOB"
echo "$nj" >"$dir/num_jobs"

if [ -f "$data/text" ]; then
  local/score.sh "$data" "$dir"
fi
echo "$0: $dir: $(cat "$dir"/hypotheses.* | wc -l) utterances decoded" >&2
