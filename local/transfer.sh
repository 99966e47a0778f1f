#!/usr/bin/env bash
# Play the examples made against each model to every model: who hears the target?
# Of a surrogate: --models dnn-robust --listeners "dnn ensemble-robust".
#
# Usage: $0 [options]
#  e.g.: $0 --eps 0.02 --models "dnn ensemble"
# In a recipe directory, after local/attack.sh for each model.  Writes
# exp/<model>/transfer_<source>_<attack>_eps<eps> and exp/results.json; a model's
# own examples are judged again, by other draws.
set -euo pipefail

models="dnn ensemble dropout bnn"   # "<name> ...": attacked ones, directories under exp/; one that was not trained is left out
listeners=                          # "<name> ...": those that listen, attacked themselves or not [the attacked ones]
attack=pgd                          # <name>: name of the attack
eps=0.02                            # <e>: of the attack
data=data/attack                    # <dir>: what was attacked
engine=                             # embedded|kaldi [by KALDI_ROOT]
device=                             # cpu|cuda [cuda if there is one]
seed=0                              # <n>: seed that the attack was made with; the draws here are others
cmd=utils/run.pl                    # <command>: how to run the jobs

. utils/script.sh
[ $# -eq 0 ] || usage
in_recipe
. ./path.sh

[[ $seed =~ ^[0-9]+$ ]] || die "--seed must be a whole number, got '$seed'"
eps=$(kaldi-uq check-eps "$eps")
trained=()
for m in $models; do
  [ ! -f "exp/$m/final.safetensors" ] || trained+=("$m")
done
[ ${#trained[@]} -gt 0 ] || die "none of exp/{${models// /,}} has a final.safetensors; stage 4 of run.sh makes it"
for m in "${trained[@]}"; do
  need_files "local/attack.sh --model $m --eps $eps" "exp/$m/attack_${attack}_eps$eps/results.jsonl"
done
options=("${engine_opts[@]}" ${device:+--device "$device"} --seed $((seed + 2)))
for listener in ${listeners:-"${trained[@]}"}; do
  need_files "stage 4 of run.sh" "exp/$listener/final.safetensors"
  for source in "${trained[@]}"; do
    dir=exp/$listener/transfer_${source}_${attack}_eps$eps
    mkdir -p "$dir/log"
    run_jobs "$dir/log/transfer.log" \
      kaldi-uq nnet-transfer "${options[@]}" --results exp/results.json \
      "exp/$source/attack_${attack}_eps$eps" "$data" "exp/$listener" "exp/$listener/graph" "$dir"
    grep -a 'original accuracy' "$dir/log/transfer.log" | tail -n 1 | sed "s|^|$0: |" >&2
  done
done
tell_page exp/results.json
