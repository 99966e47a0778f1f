#!/usr/bin/env bash
# Write the log-likelihoods of a hybrid model as a Kaldi archive, for Kaldi's own decoders.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
device=            # cpu or cuda; empty: cuda if there is one
log_post=false     # log-posteriors instead: the priors are not divided out
cmvn_from=auto     # statistics of the speakers: scp, waves, or auto
allow_pipes=false  # run lines of wav.scp that are commands
seed=0             # of the draws
network=           # FILE.py:NAME that builds the network of <model-dir>; empty: it is one of kaldi_uq
recogniser=        # FILE.py:NAME that makes a recogniser of <model-dir>, which is no hybrid model

help_message="Usage: $0 [options] <data-dir> <model-dir> <out-dir>
 e.g.: $0 data/test exp/dnn exp/dnn/forward_test
Options:
  --log-post true|false   log P(pdf | x) instead of log-likelihoods [$log_post]
  --cmvn-from auto|scp|waves
                          statistics of speakers: <data-dir>/cmvn.scp, or
                          computed from the waveforms [$cmvn_from]
  --allow-pipes true|false
                          run lines of wav.scp that are commands [$allow_pipes]
  --device cpu|cuda       [cuda if there is one]
  --seed <n>              of the draws [$seed]
  --network <file.py:name>
                          builds the network of <model-dir>, which is code
                          of your own
  --recogniser <file.py:name>
                          makes a recogniser of <model-dir> that is no hybrid
                          model
  --cmd <command>         how to run the job [$cmd]"

echo "$0 $*" >&2
# shellcheck source=../../utils/parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
if [ $# -ne 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

[ -f "$1/wav.scp" ] || { echo "$0: error: $1/wav.scp: no such file" >&2; exit 1; }
[ -n "$recogniser" ] || [ -f "$2/final.safetensors" ] || { echo "$0: error: $2/final.safetensors: no such file; steps/uq/train.sh makes it" >&2; exit 1; }
mkdir -p "$3/log"
flags=()
[ "$log_post" = false ] || flags+=(--log-post)
[ "$allow_pipes" = false ] || flags+=(--allow-pipes)
$cmd "$3/log/forward.log" \
  kaldi-uq nnet-forward ${network:+--network "$network"} ${recogniser:+--recogniser "$recogniser"} \
  ${flags[@]+"${flags[@]}"} ${device:+--device "$device"} --seed "$seed" --cmvn-from "$cmvn_from" \
  "$1" "$2" "$3/loglikes.ark" "$3/loglikes.scp"

echo "$0: $3/loglikes.scp: $(wc -l <"$3/loglikes.scp") utterances" >&2
