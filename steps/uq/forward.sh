#!/usr/bin/env bash
# Write the log-likelihoods of a hybrid model as a Kaldi archive, for Kaldi's own decoders.
#
# Usage: $0 [options] <data-dir> <model-dir> <out-dir>
#  e.g.: $0 data/test exp/dnn exp/dnn/forward_test
set -euo pipefail

nj=1               # <n>: jobs that compute some batches each; they change no result
cmd=utils/run.pl   # <command>: how to run the jobs
network=           # <file.py:name>: network of your own that <model-dir> holds weights of; runs this code
recogniser=        # <file.py:name>: recogniser of another sort, of <model-dir>; runs this code
device=            # cpu|cuda [cuda if there is one]
log_post=false     # true|false: log P(pdf | x) instead of log-likelihoods: the priors are not divided out
transform_dir=     # <dir>: fMLLR transforms of <data-dir>'s speakers (trans.*), for a model trained with such: exp/tri3/decode_test
online_ivector_dir=  # <dir>: i-vectors of <data-dir> (ivector_online.scp), for a model trained with such
cmvn_from=auto     # auto|scp|waves: statistics of speakers: <data-dir>/cmvn.scp, or computed from the waveforms
allow_pipes=false  # true|false: run lines of wav.scp that are commands, as with KALDI_UQ_ALLOW_PIPES=1
resample=false     # true|false: resample audio of another rate than the model's; the log counts it
seed=0             # <n>: seed of the draws

# shellcheck source=../../utils/script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/script.sh"
[ $# -eq 3 ] || usage
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

need_files "the data preparation" "$1/wav.scp"
[ -n "$recogniser" ] || need_files "$(dirname -- "$0")/train.sh" "$2/final.safetensors"
check_nj
hold_dir "$3"
flags=(${network:+--network "$network"} ${recogniser:+--recogniser "$recogniser"})
[ "$log_post" = false ] || flags+=(--log-post)
[ "$allow_pipes" = false ] || flags+=(--allow-pipes)
[ "$resample" = false ] || flags+=(--resample)
command=(kaldi-uq nnet-forward "${flags[@]}" ${device:+--device "$device"} --seed "$seed" --cmvn-from "$cmvn_from"
  ${transform_dir:+--transform-dir "$transform_dir"} ${online_ivector_dir:+--online-ivector-dir "$online_ivector_dir"})
files=("$1" "$2" "$3/loglikes.ark" "$3/loglikes.scp")
if [ "$nj" -gt 1 ]; then
  keep_log "$3"/log/forward.[0-9]*.log
  run_jobs JOB=1:"$nj" "$3/log/forward.JOB.log" "${command[@]}" --shard "JOB/$nj" "${files[@]}"
fi
# what the jobs made, and what is left to make, is written
run_jobs "$3/log/forward.log" "${command[@]}" "${files[@]}"

echo "$0: $3/loglikes.scp: $(wc -l <"$3/loglikes.scp") utterances" >&2
