#!/usr/bin/env bash
# Measure the detectors of a model on benign and on attacked scores; fit them first if they are not fitted on these.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
attack=            # name of the attack; empty: from the name of the attack directory
eps=               # of the attack; empty: from the name of the attack directory
fpr=0.01           # false-positive rate of the thresholds
results=exp/results.json
seed=0             # seed of the bootstrap

help_message="Usage: $0 [options] <model-dir> <fit-dir> <benign-dir> \\
         <attack-dir>
 e.g.: $0 exp/dnn exp/dnn/score_fit exp/dnn/score_test \\
         exp/dnn/attack_pgd_eps0.02
Options:
  --attack <name>, --eps <e>   [from attack_<name>_eps<e>]
  --fpr <rate>                 false-positive rate of the thresholds [$fpr]
  --results <file>             results.json to add to [$results]
  --seed <n>                   seed of the bootstrap [$seed]
  --cmd <command>              how to run the job [$cmd]"

echo "$0 $*" >&2
# shellcheck source=../../utils/parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

for d in "$2" "$3"; do
  [ -f "$d/results.jsonl" ] || { echo "$0: error: $d/results.jsonl: no such file; steps/uq/decode.sh makes it" >&2; exit 1; }
done
[ -f "$4/results.jsonl" ] || { echo "$0: error: $4/results.jsonl: no such file; steps/uq/attack.sh makes it" >&2; exit 1; }
name=$(basename "$4")
if [ -z "$attack" ] || [ -z "$eps" ]; then
  [[ $name =~ ^attack_(.+)_eps([^_]+)$ ]] || {
    echo "$0: error: $4: not named attack_<name>_eps<eps>; say both with --attack and --eps" >&2
    exit 1
  }
  attack=${attack:-${BASH_REMATCH[1]}}
  eps=${eps:-${BASH_REMATCH[2]}}
fi

mkdir -p "$1/detector/log"
$cmd "$1/detector/log/$name.log" \
  kaldi-uq nnet-detect --fit "$2/results.jsonl" --benign "$3/results.jsonl" --attacked "$4/results.jsonl" \
  --model "$(basename "$1")" --attack "$attack" --eps "$eps" --fpr "$fpr" --results "$results" \
  --detector-dir "$1/detector" --seed "$seed"

grep -a '^.*AUROC' "$1/detector/log/$name.log" | sed "s|^|$0: |" >&2
