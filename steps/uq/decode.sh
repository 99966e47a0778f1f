#!/usr/bin/env bash
# Decode benign audio with a hybrid model and measure its uncertainty: results.jsonl, hypotheses, frame_quantiles.json.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
results=           # results.json to record the accuracy in; empty: none
decode_opts=       # further options of kaldi-uq nnet-decode: --acwt, --beam, --num-draws, ...
engine=            # embedded or kaldi; empty: by KALDI_ROOT
device=            # cpu or cuda; empty: cuda if there is one
seed=0             # of the draws

help_message="Usage: $0 [options] <graph-dir> <data-dir> <model-dir> <out-dir>
 e.g.: $0 exp/dnn/graph data/test exp/dnn exp/dnn/score_test
Options:
  --results <file>           also record the accuracy in this results.json
  --decode-opts <options>    further options of kaldi-uq nnet-decode
  --engine embedded|kaldi    [by KALDI_ROOT]
  --device cpu|cuda          [cuda if there is one]
  --seed <n>                 of the draws [$seed]
  --cmd <command>            how to run the job [$cmd]"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

graph=$1
data=$2
model=$3
dir=$4

[ -f "$graph/HCLG.fst" ] || { echo "$0: error: $graph/HCLG.fst: no such file; utils/mkgraph.sh makes it" >&2; exit 1; }
[ -f "$model/final.safetensors" ] || { echo "$0: error: $model/final.safetensors: no such file; steps/uq/train.sh makes it (stage 4)" >&2; exit 1; }
for f in "$data/wav.scp" "$data/text"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file (stage 0 of a recipe makes it)" >&2; exit 1; }
done
mkdir -p "$dir/log"
read -ra extra <<<"$decode_opts"
$cmd "$dir/log/decode.log" \
  kaldi-uq nnet-decode ${results:+--results "$results"} ${engine:+--engine "$engine"} ${device:+--device "$device"} \
  --seed "$seed" ${extra[@]+"${extra[@]}"} "$data" "$model" "$graph" "$dir"

echo "$0: $dir: $(grep '^%WER' "$dir/log/decode.log" || true)" >&2
