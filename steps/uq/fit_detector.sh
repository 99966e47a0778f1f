#!/usr/bin/env bash
# Fit the detectors of a model on benign scores; no attack is needed.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
fpr=0.01           # false-positive rate of the thresholds

help_message="Usage: $0 [options] <model-dir> <scored-benign-dir>
 e.g.: $0 exp/dnn exp/dnn/score_fit
Options:
  --fpr <rate>       false-positive rate of the thresholds [$fpr]
  --cmd <command>    how to run the job [$cmd]
Writes <model-dir>/detector: a JSON file a detector, and frame_quantiles.json."

echo "$0 $*" >&2
# shellcheck source=../../utils/parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
if [ $# -ne 2 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

[ -d "$1" ] || { echo "$0: error: $1: no such directory; steps/uq/train.sh makes it" >&2; exit 1; }
[ -f "$2/results.jsonl" ] || { echo "$0: error: $2/results.jsonl: no such file; steps/uq/decode.sh makes it" >&2; exit 1; }

mkdir -p "$1/detector/log"
$cmd "$1/detector/log/fit.log" kaldi-uq fit-detector --fpr "$fpr" --scored "$2/results.jsonl" "$1"

grep -a ' detectors, ' "$1/detector/log/fit.log" | sed "s|^|$0: |" >&2
