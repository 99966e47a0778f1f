#!/usr/bin/env bash
# Decode a data directory with a GMM system and score it: hypotheses, wer, and with the kaldi engine lat.*.gz.
set -euo pipefail

nj=2               # parallel jobs; they never change a word
cmd=utils/run.pl   # where the jobs run
engine=            # embedded or kaldi; empty: by KALDI_ROOT
acwt=0.1           # acoustic scale
beam=13            # decoding beam
max_active=7000    # tokens a frame

help_message="Usage: $0 [options] <graph-dir> <data-dir> <decode-dir>
 e.g.: $0 --nj 4 exp/mono/graph data/test exp/mono/decode_test
The model is that of the directory above <decode-dir>.
Options:
  --nj <n>                  number of parallel jobs [$nj]
  --engine embedded|kaldi   [by KALDI_ROOT]
  --acwt <scale>            [$acwt]
  --beam <b>                [$beam]
  --max-active <n>          [$max_active]
  --cmd <command>           how to run jobs [$cmd]"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

graph=$1
data=$2
dir=$3
srcdir=$(dirname "$dir")

[ -f "$srcdir/final.mdl" ] || { echo "$0: error: $srcdir/final.mdl: no such file; stage 2 makes it" >&2; exit 1; }
[ -f "$graph/HCLG.fst" ] || { echo "$0: error: $graph/HCLG.fst: no such file; utils/mkgraph.sh makes it" >&2; exit 1; }
for f in "$data/feats.scp" "$data/cmvn.scp"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; stage 1 of the recipe makes it" >&2; exit 1; }
done
[[ $nj =~ ^[1-9][0-9]*$ ]] || { echo "$0: error: --nj must be a whole number above 0, got '$nj'" >&2; exit 1; }
num_spk=$(wc -l <"$data/spk2utt")   # a part has at least one speaker
[ "$nj" -le "$num_spk" ] || nj=$num_spk
utils/split_data.sh "$data" "$nj" >/dev/null
mkdir -p "$dir/log"
rm -f "$dir"/hypotheses.* "$dir"/lat.*.gz "$dir/num_jobs" "$dir/wer" "$dir/wer.json"

$cmd "JOB=1:$nj" "$dir/log/decode.JOB.log" \
  kaldi-uq decode-gmm ${engine:+--engine "$engine"} --job JOB --lattices --acwt "$acwt" --beam "$beam" --max-active "$max_active" \
  "$data/split$nj/JOB" "$srcdir" "$graph" "$dir/hypotheses.JOB"

echo "$nj" >"$dir/num_jobs"

if [ -f "$data/text" ]; then
  local/score.sh "$data" "$dir"
fi
echo "$0: $dir: $(cat "$dir"/hypotheses.* | wc -l) utterances decoded" >&2
