#!/usr/bin/env bash
# Play the examples made against each model to every model: who hears the target?
set -euo pipefail

models="dnn ensemble dropout bnn"   # directories under exp/; one that was not trained is left out
listeners=                          # of them, those that listen; empty: all
attack=pgd                          # name of the attack
eps=0.02                            # of the attack
data=data/attack                    # what was attacked
engine=                             # embedded or kaldi; empty: by KALDI_ROOT
device=                             # cpu or cuda; empty: cuda if there is one
seed=0                              # that the attack was made with; the draws here are others
cmd=utils/run.pl                    # where the jobs run

help_message="Usage: $0 [options]
In a recipe directory, after local/attack.sh for each model.
 e.g.: $0 --eps 0.02 --models \"dnn ensemble\"
Options:
  --models \"<name> ...\"     directories under exp/; those that are not there
                            are left out [$models]
  --listeners \"<name> ...\"  of them, those that listen [all]
  --attack <name>           name of the attack [$attack]
  --eps <e>                 of the attack [$eps]
  --data <dir>              what was attacked [$data]
  --engine embedded|kaldi   [by KALDI_ROOT]
  --device cpu|cuda         [cuda if there is one]
  --seed <n>                that the attack was made with [$seed]
  --cmd <command>           how to run the jobs [$cmd]
Writes exp/<model>/transfer_<source>_<attack>_eps<eps> and exp/results.json;
a model's own examples are judged again, by other draws."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

[[ $seed =~ ^[0-9]+$ ]] || { echo "$0: error: --seed must be a whole number, got '$seed'" >&2; exit 1; }
eps=$(kaldi-uq check-eps "$eps")
trained=()
for m in $models; do
  [ ! -f "exp/$m/final.safetensors" ] || trained+=("$m")
done
[ ${#trained[@]} -gt 0 ] || { echo "$0: error: none of exp/{${models// /,}} has a final.safetensors; stage 4 of run.sh makes it" >&2; exit 1; }
for m in "${trained[@]}"; do
  [ -f "exp/$m/attack_${attack}_eps$eps/results.jsonl" ] || {
    echo "$0: error: exp/$m/attack_${attack}_eps$eps/results.jsonl: no such file; local/attack.sh --model $m --eps $eps makes it" >&2
    exit 1
  }
done
options=(${engine:+--engine "$engine"} ${device:+--device "$device"} --seed $((seed + 2)))
for listener in ${listeners:-"${trained[@]}"}; do
  [ -f "exp/$listener/final.safetensors" ] || {
    echo "$0: error: exp/$listener/final.safetensors: no such file; stage 4 of run.sh makes it" >&2
    exit 1
  }
  for source in "${trained[@]}"; do
    dir=exp/$listener/transfer_${source}_${attack}_eps$eps
    mkdir -p "$dir/log"
    $cmd "$dir/log/transfer.log" \
      kaldi-uq nnet-transfer "${options[@]}" --results exp/results.json \
      "exp/$source/attack_${attack}_eps$eps" "$data" "exp/$listener" "exp/$listener/graph" "$dir"
    grep -a 'original accuracy' "$dir/log/transfer.log" | tail -n 1 | sed "s|^|$0: |" >&2
  done
done
