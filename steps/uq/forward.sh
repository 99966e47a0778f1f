#!/usr/bin/env bash
# Write the log-likelihoods of a hybrid model as a Kaldi archive, for Kaldi's own decoders.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
device=            # cpu or cuda; empty: cuda if there is one
log_post=false     # log-posteriors instead: the priors are not divided out
seed=0             # of the draws

help_message="Usage: $0 [options] <data-dir> <model-dir> <out-dir>
 e.g.: $0 data/test exp/dnn exp/dnn/forward_test
Options:
  --log-post true|false   log P(pdf | x) instead of log-likelihoods [$log_post]
  --device cpu|cuda       [cuda if there is one]
  --seed <n>              of the draws [$seed]
  --cmd <command>         how to run the job [$cmd]"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

[ -f "$1/wav.scp" ] || { echo "$0: error: $1/wav.scp: no such file" >&2; exit 1; }
[ -f "$2/final.safetensors" ] || { echo "$0: error: $2/final.safetensors: no such file; steps/uq/train.sh makes it" >&2; exit 1; }
mkdir -p "$3/log"
flags=()
[ "$log_post" = false ] || flags+=(--log-post)
$cmd "$3/log/forward.log" \
  kaldi-uq nnet-forward ${flags[@]+"${flags[@]}"} ${device:+--device "$device"} --seed "$seed" \
  "$1" "$2" "$3/loglikes.ark" "$3/loglikes.scp"

echo "$0: $3/loglikes.scp: $(wc -l <"$3/loglikes.scp") utterances" >&2
