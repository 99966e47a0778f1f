#!/usr/bin/env bash
# Decode benign audio with a hybrid model and measure its uncertainty: results.jsonl, hypotheses, frame_quantiles.json,
# and where they are asked for lat.*.gz and the word error rate of each language model weight, wer_<lmwt>_<penalty>.
#
# Usage: $0 [options] <graph-dir> <data-dir> <model-dir> <out-dir>
#  e.g.: $0 exp/dnn/graph data/test exp/dnn exp/dnn/score_test
set -euo pipefail

nj=2               # <n>: jobs of the kaldi engine's decoder, all where the network computes; they never change a word
network_nj=1       # <n>: jobs that compute the network's part of some batches each, before the decoder; they change no result
cmd=utils/run.pl   # <command>: how to run the jobs
results=           # <file>: also record the accuracy in this results.json
decode_opts=       # <options>: further options of kaldi-uq nnet-decode: --acwt, --beam, --num-draws, ...
lattices=          # true|false: write lat.JOB.gz; the embedded engine takes some 0.1 s for a second of speech more [true with the kaldi engine]
score_lattices=false # true|false: write lattices and score them as Kaldi's score.sh does
min_lmwt=7         # <n>: smallest language model weight of --score-lattices
max_lmwt=17        # <n>: largest one
word_ins_penalty=0.0,0.5,1.0 # <p,...>: word insertion penalties of --score-lattices
network=           # <file.py:name>: network of your own that <model-dir> holds weights of; runs this code
recogniser=        # <file.py:name>: recogniser of another sort, of <model-dir>; runs this code; <graph-dir> is - then
engine=            # embedded|kaldi [by KALDI_ROOT]
device=            # cpu|cuda [cuda if there is one]
seed=0             # <n>: seed of the draws
transform_dir=     # <dir>: fMLLR transforms of <data-dir>'s speakers (trans.*), for a model trained with such: exp/tri3/decode_test
online_ivector_dir=  # <dir>: i-vectors of <data-dir> (ivector_online.scp), for a model trained with such
cmvn_from=auto     # auto|scp|waves: statistics of speakers: <data-dir>/cmvn.scp, or computed from the waveforms
allow_pipes=false  # true|false: run lines of wav.scp that are commands, as with KALDI_UQ_ALLOW_PIPES=1
resample=false     # true|false: resample audio of another rate than the model's; the log counts it
max_bad=0          # <n>: leave out up to so many utterances that cannot be used; <out-dir>/bad_utterances names them

# shellcheck source=../../utils/script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/script.sh"
[ $# -eq 4 ] || usage
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

graph=$1
data=$2
model=$3
dir=$4

[ -n "$recogniser" ] || need_files utils/mkgraph.sh "$graph/HCLG.fst"
[ -n "$recogniser" ] || need_files "$(dirname -- "$0")/train.sh" "$model/final.safetensors"
need_files "the data preparation" "$data/wav.scp" "$data/text"
check_nj
[[ $network_nj =~ ^[1-9][0-9]*$ ]] || die "--network-nj must be a whole number above 0, got '$network_nj'"
[ -z "$recogniser" ] || [[ $lattices$score_lattices != *true* ]] || die "a recogniser of another sort makes no lattices"
hold_dir "$dir"
code_opts=(${network:+--network "$network"} ${recogniser:+--recogniser "$recogniser"})
read -ra extra <<<"$decode_opts"
[ "$allow_pipes" = false ] || extra+=(--allow-pipes)
[ "$resample" = false ] || extra+=(--resample)
[ -z "$transform_dir" ] || extra+=(--transform-dir "$transform_dir")
[ -z "$online_ivector_dir" ] || extra+=(--online-ivector-dir "$online_ivector_dir")
if [ -z "$lattices" ]; then
  lattices=false
  [ "${engine:-${KALDI_ROOT:+kaldi}}" != kaldi ] || [ -n "$recogniser" ] || lattices=true
fi
case $lattices,$score_lattices in
  true,* | *,true) extra+=(--lattices) ;;
esac
command=(kaldi-uq nnet-decode --nj "$nj" --cmvn-from "$cmvn_from" --max-bad "$max_bad"
  "${code_opts[@]}" "${model_opts[@]}" "${extra[@]}")
if [ "$network_nj" -gt 1 ]; then
  keep_log "$dir"/log/network.[0-9]*.log
  run_jobs JOB=1:"$network_nj" "$dir/log/network.JOB.log" \
    "${command[@]}" --shard "JOB/$network_nj" "$data" "$model" "$graph" "$dir"
fi
run_jobs "$dir/log/decode.log" "${command[@]}" ${results:+--results "$results"} "$data" "$model" "$graph" "$dir"
lattices=("$dir"/lat.*.gz)
[ ! -e "${lattices[0]}" ] || echo ${#lattices[@]} >"$dir/num_jobs" # Kaldi's scripts ask for it

if [ "$score_lattices" = true ]; then
  run_jobs "$dir/log/score_lattices.log" \
    kaldi-uq score-lattices --min-lmwt "$min_lmwt" --max-lmwt "$max_lmwt" --word-ins-penalty "$word_ins_penalty" \
    "$data" "$graph" "$dir"
  cat "$dir/scoring_kaldi/best_wer"
fi
tell_bad "$dir/bad_utterances"
echo "$0: $dir: $(grep '^%WER' "$dir/log/decode.log" || true)" >&2
