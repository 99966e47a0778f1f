#!/usr/bin/env bash
# Fit the detectors of a model on data/fit and measure them on data/test against an attack that was made.
#
# Usage: $0 [options]
#  e.g.: $0 --eps 0.02 --model ensemble --attack paper-pgd
# In a recipe directory, after run.sh and local/attack.sh.  Adds to
# exp/results.json and writes exp/<model>/detector/*.json.
set -euo pipefail

eps=0.02     # <e>: of the attack
model=dnn    # <name>: directory under exp/
attack=pgd   # <name>: name of the attack
fpr=0.01     # <rate>: false-positive rate of the thresholds
seed=0       # <n>: seed of the bootstrap

. utils/script.sh
[ $# -eq 0 ] || usage
in_recipe
. ./path.sh

eps=$(kaldi-uq check-eps "$eps")
steps/uq/detect.sh --fpr "$fpr" --seed "$seed" --results exp/results.json \
  "exp/$model" "exp/$model/score_fit" "exp/$model/score_test" "exp/$model/attack_${attack}_eps$eps"
tell_page exp/results.json
