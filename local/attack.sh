#!/usr/bin/env bash
# Attack a trained model of the recipe: random digit strings as targets, perturbations of at most eps.
set -euo pipefail

eps=0.02        # largest change of a sample, full scale 1
model=dnn       # directory under exp/
attack=pgd      # options in conf/<attack>.conf: pgd, the strong default, adaptive, ...; of paper-pgd in conf/paper/pgd.conf
statistics=     # adaptive: whose detectors the attack has to pass, separated by commas; empty: max_predictive_entropy
name=           # under which it is filed; empty: <attack>, adaptive-<statistics>
data=data/attack
eot_samples=    # draws of a random model that one gradient averages over; empty: that of the configuration
num_utts=0      # attack so many utterances, spread over the data; 0: all
target_text=    # table utt -> target words; empty: random strings of 1 to 5 digits
attack_opts=    # further options of kaldi-uq nnet-attack
engine=         # embedded or kaldi; empty: by KALDI_ROOT
device=         # cpu or cuda; empty: cuda if there is one
seed=0          # of targets, starts and draws

help_message="Usage: $0 [options]
In a recipe directory, after run.sh has trained.
 e.g.: $0 --eps 0.02 --model ensemble
Options:
  --eps <e>                 largest change of a sample, full scale 1 [$eps]
  --model <name>            directory under exp/ [$model]
  --attack <name>           pgd: the strong default; paper-pgd: the paper's
                            exactly; adaptive: knows the detector; or any other
                            with a conf/<name>.conf [$attack]
  --statistics <s>,<s>      adaptive: of the detectors to pass; all: every one
                            [max_predictive_entropy]
  --name <name>             under which it is filed [<attack>, or
                            adaptive-<statistics>]; an attack of the same name
                            and eps is replaced
  --data <dir>              utterances to attack [$data]
  --num-utts <n>            attack so many of them; 0: all [$num_utts]
  --eot-samples <n>         draws that one gradient averages over; filed as
                            <name>-eot<n> [as in conf/, filed as <name>]
  --target-text <file>      table of targets: utt words... [random strings]
  --attack-opts <options>   further options: --num-steps, --realign-every, ...
  --engine embedded|kaldi   [by KALDI_ROOT]
  --device cpu|cuda         [cuda if there is one]
  --seed <n>                [$seed]
Writes exp/<model>/attack_<name>_eps<eps> and exp/results.json."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

attacks=paper-pgd
for f in conf/*.conf; do
  f=$(basename "$f" .conf)
  [[ $f == mfcc* || -f utils/../kaldi_uq/nnet/kinds/$f.py ]] || attacks="$f $attacks" # else of a kind of model
done
[[ " $attacks " == *" $attack "* ]] || {
  echo "$0: error: conf/$attack.conf: no such file; --attack must be one of $attacks" >&2
  exit 1
}
conf=conf/$attack.conf
[ "$attack" != paper-pgd ] || conf=conf/paper/pgd.conf
if [ "$attack" = adaptive ]; then
  statistics=${statistics:-max_predictive_entropy}
  [[ $statistics =~ ^[a-z0-9_]+(,[a-z0-9_]+)*$ ]] || {
    echo "$0: error: --statistics are names separated by commas, got '$statistics'" >&2
    exit 1
  }
  name=${name:-adaptive-${statistics//,/+}}
  attack_opts="--statistics $statistics${attack_opts:+ $attack_opts}"
  fit=exp/$model/score_fit/results.jsonl
  [ -f "$fit" ] || { echo "$0: error: $fit: no such file; stage 5 of run.sh makes it (run.sh --models \"$model\")" >&2; exit 1; }
elif [ -n "$statistics" ]; then
  echo "$0: error: --statistics is for --attack adaptive, which knows the detector" >&2
  exit 1
fi
eps=$(kaldi-uq check-eps "$eps")
if [ "$attack" = paper-pgd ] && [ -n "$attack_opts" ] && [ "${name:-$attack}" = paper-pgd ]; then
  echo "$0: error: with --attack-opts '$attack_opts' it is not the paper's attack; give it a --name" >&2
  exit 1
fi
name=${name:-$attack}
[[ $name =~ ^[[:alnum:]._+-]+$ ]] || { echo "$0: error: --name is of letters, digits and . _ + -, got '$name'" >&2; exit 1; }
if [ -n "$eot_samples" ]; then
  name=$name-eot$eot_samples
  attack_opts="${attack_opts:+$attack_opts }--eot-samples $eot_samples"
fi
[ -f "exp/$model/final.safetensors" ] || {
  echo "$0: error: exp/$model/final.safetensors: no such file; stage 4 of run.sh makes it (run.sh --models \"$model\")" >&2
  exit 1
}
options=(${target_text:+--target-text "$target_text"} ${attack_opts:+--attack-opts "$attack_opts"})
options+=(${engine:+--engine "$engine"} ${device:+--device "$device"} --seed "$seed")
[ "$num_utts" = 0 ] || options+=(--num-utts "$num_utts")
steps/uq/attack.sh --eps "$eps" --attack "$name" --attack-config "$conf" --results exp/results.json "${options[@]}" \
  "$data" data/lang "exp/$model" "exp/$model/graph" "exp/$model/attack_${name}_eps$eps"
