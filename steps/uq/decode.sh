#!/usr/bin/env bash
# Decode benign audio with a hybrid model and measure its uncertainty: results.jsonl, hypotheses, frame_quantiles.json,
# and with the kaldi engine lat.*.gz.
set -euo pipefail

nj=2               # parallel jobs of the kaldi engine's decoder; they never change a word
cmd=utils/run.pl   # where the job runs
results=           # results.json to record the accuracy in; empty: none
decode_opts=       # further options of kaldi-uq nnet-decode: --acwt, --beam, --num-draws, ...
engine=            # embedded or kaldi; empty: by KALDI_ROOT
device=            # cpu or cuda; empty: cuda if there is one
seed=0             # of the draws
cmvn_from=auto     # statistics of the speakers: scp, waves, or auto
allow_pipes=false  # run lines of wav.scp that are commands
network=           # FILE.py:NAME that builds the network of <model-dir>; empty: it is one of kaldi_uq
recogniser=        # FILE.py:NAME that makes a recogniser of <model-dir>, which is no hybrid model; <graph-dir> is - then

help_message="Usage: $0 [options] <graph-dir> <data-dir> <model-dir> <out-dir>
 e.g.: $0 exp/dnn/graph data/test exp/dnn exp/dnn/score_test
Options:
  --results <file>           also record the accuracy in this results.json
  --decode-opts <options>    further options of kaldi-uq nnet-decode
  --engine embedded|kaldi    [by KALDI_ROOT]
  --device cpu|cuda          [cuda if there is one]
  --seed <n>                 of the draws [$seed]
  --cmvn-from auto|scp|waves statistics of speakers: <data-dir>/cmvn.scp, or
                             computed from the waveforms [$cmvn_from]
  --allow-pipes true|false   run lines of wav.scp that are commands
                             [$allow_pipes]
  --nj <n>                   jobs of the kaldi engine's decoder, all where the
                             network computes [$nj]
  --network <file.py:name>   builds the network of <model-dir>, which is code
                             of your own
  --recogniser <file.py:name>
                             makes a recogniser of <model-dir> that is no hybrid
                             model; <graph-dir> is - then
  --cmd <command>            how to run the job [$cmd]"

echo "$0 $*" >&2
# shellcheck source=../../utils/parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

graph=$1
data=$2
model=$3
dir=$4

[ -n "$recogniser" ] || [ -f "$graph/HCLG.fst" ] || { echo "$0: error: $graph/HCLG.fst: no such file; utils/mkgraph.sh makes it" >&2; exit 1; }
[ -n "$recogniser" ] || [ -f "$model/final.safetensors" ] || { echo "$0: error: $model/final.safetensors: no such file; steps/uq/train.sh makes it (stage 4)" >&2; exit 1; }
for f in "$data/wav.scp" "$data/text"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file (stage 0 of a recipe makes it)" >&2; exit 1; }
done
mkdir -p "$dir/log"
read -ra extra <<<"$decode_opts"
[ "$allow_pipes" = false ] || extra+=(--allow-pipes)
[[ $nj =~ ^[1-9][0-9]*$ ]] || { echo "$0: error: --nj must be a whole number above 0, got '$nj'" >&2; exit 1; }
$cmd "$dir/log/decode.log" \
  kaldi-uq nnet-decode ${network:+--network "$network"} ${recogniser:+--recogniser "$recogniser"} \
  ${results:+--results "$results"} ${engine:+--engine "$engine"} ${device:+--device "$device"} \
  --nj "$nj" --lattices --seed "$seed" --cmvn-from "$cmvn_from" ${extra[@]+"${extra[@]}"} "$data" "$model" "$graph" "$dir"

echo "$0: $dir: $(grep '^%WER' "$dir/log/decode.log" || true)" >&2
