#!/usr/bin/env bash
# Measure the detectors of a model on benign and on attacked scores; fit them first if they are not fitted on these.
#
# Usage: $0 [options] <model-dir> <fit-dir> <benign-dir> \
#          <attack-dir>
#  e.g.: $0 exp/dnn exp/dnn/score_fit exp/dnn/score_test \
#          exp/dnn/attack_pgd_eps0.02
set -euo pipefail

cmd=utils/run.pl   # <command>: how to run the job
attack=            # <name>: name of the attack [from attack_<name>_eps<e>]
eps=               # <e>: eps of the attack [from attack_<name>_eps<e>]
fpr=0.01           # <rate>: false-positive rate of the thresholds
results=exp/results.json   # <file>: results.json to add to
seed=0             # <n>: seed of the bootstrap

# shellcheck source=../../utils/script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/script.sh"
[ $# -eq 4 ] || usage
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

need_files "$(dirname -- "$0")/decode.sh" "$2/results.jsonl" "$3/results.jsonl"
need_files "$(dirname -- "$0")/attack.sh" "$4/results.jsonl"
name=$(basename "$4")
if [ -z "$attack" ] || [ -z "$eps" ]; then
  [[ $name =~ ^attack_(.+)_eps([^_]+)$ ]] || die "$4: not named attack_<name>_eps<eps>; say both with --attack and --eps"
  attack=${attack:-${BASH_REMATCH[1]}}
  eps=${eps:-${BASH_REMATCH[2]}}
fi

mkdir -p "$1/detector/log"
run_jobs "$1/detector/log/$name.log" \
  kaldi-uq nnet-detect --fit "$2/results.jsonl" --benign "$3/results.jsonl" --attacked "$4/results.jsonl" \
  --model "$(basename "$1")" --attack "$attack" --eps "$eps" --fpr "$fpr" --results "$results" \
  --detector-dir "$1/detector" --seed "$seed"

log=$1/detector/log/$name.log
grep -a '^.*AUROC' "$log" | sed "s|^|$0: |" >&2
grep -av -e AUROC -e '^#' "$log" >&2 || true # what the default detector catches, of 80 columns
tell_page "$results"
