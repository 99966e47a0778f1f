#!/usr/bin/env bash
# Measure the detectors of a model, fitted on data/fit, on data/test against an attack that was made.
set -euo pipefail

eps=0.02     # eps of the attack
model=dnn    # directory under exp/
attack=pgd   # name of the attack
fpr=0.01     # false-positive rate of the thresholds
seed=0       # seed of the bootstrap

help_message="Usage: $0 [options]
In a recipe directory, after run.sh and local/attack.sh.
 e.g.: $0 --eps 0.02 --model ensemble --attack paper-pgd
Options:
  --eps <e>         eps of the attack [$eps]
  --model <name>    directory under exp/ [$model]
  --attack <name>   [$attack]
  --fpr <rate>      false-positive rate of the thresholds [$fpr]
  --seed <n>        seed of the bootstrap [$seed]
Adds to exp/results.json and writes exp/<model>/detector/*.json."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

eps=$(kaldi-uq check-eps "$eps")
steps/uq/detect.sh --fpr "$fpr" --seed "$seed" --results exp/results.json \
  "exp/$model" "exp/$model/score_fit" "exp/$model/score_test" "exp/$model/attack_${attack}_eps$eps"
