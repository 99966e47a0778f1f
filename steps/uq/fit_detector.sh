#!/usr/bin/env bash
# Fit the detectors of a model on benign scores; no attack is needed.
#
# Usage: $0 [options] <model-dir> <scored-benign-dir>
#  e.g.: $0 exp/dnn exp/dnn/score_fit
# Writes <model-dir>/detector: a JSON file a detector, and frame_quantiles.json.
set -euo pipefail

cmd=utils/run.pl   # <command>: how to run the job
fpr=0.01           # <rate>: false-positive rate of the thresholds

# shellcheck source=../../utils/script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/script.sh"
[ $# -eq 2 ] || usage
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

[ -d "$1" ] || die "$1: no such directory; steps/uq/train.sh makes it"
need_files "$(dirname -- "$0")/decode.sh" "$2/results.jsonl"
hold_dir "$1/detector"
run_jobs "$1/detector/log/fit.log" kaldi-uq fit-detector --fpr "$fpr" --scored "$2/results.jsonl" "$1"

grep -a ' detectors, ' "$1/detector/log/fit.log" | sed "s|^|$0: |" >&2
