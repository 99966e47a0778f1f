#!/usr/bin/env bash
# Attack a trained model of the recipe: random digit strings as targets, perturbations of at most eps.
#
# Usage: $0 [options]
#  e.g.: $0 --eps 0.02 --model ensemble
# In a recipe directory, after run.sh has trained.  Writes
# exp/<model>/attack_<name>_eps<eps> and exp/results.json.
set -euo pipefail

eps=0.02          # <e>: largest change of a sample, full scale 1
eps_level=        # <l>: eps is for speech of this root mean square, full scale 1, and scaled by the level of each utterance;
                  # filed as <name>-level<l> [eps is absolute]
model=dnn         # <name>: directory under exp/
attack=pgd        # <name>: pgd: the strong default; paper-pgd: the paper's exactly; adaptive, orthogonal, selective:
                  # know the detector; or any other with a conf/<name>.conf
statistics=       # <s>,<s>: of the detectors to pass, of an attack that knows them; all: every one [max_predictive_entropy]
fpr=              # <rate>: false-positive rate of these, fitted on exp/<model>/score_fit; filed as <name>-fpr<rate> unless it is
                  # 0.01 [those of exp/<model>/detector, for 0.01]
name=             # <name>: under which it is filed; an attack of the same name and eps is replaced [<attack>, or <attack>-<statistics>]
data=data/attack  # <dir>: utterances to attack
nj=1              # <n>: jobs that attack some batches each; they change no result
cmd=utils/run.pl  # <command>: how to run the jobs
num_utts=0        # <n>: attack so many of them, spread over the data; 0: all
eot_samples=      # <n>: draws that one gradient averages over; filed as <name>-eot<n> [as in conf/, filed as <name>]
target_text=      # <file>: table of targets: utt words... [random strings of 1 to 5 digits]
attack_opts=      # <options>: further options: --num-steps, --realign-every, ...
engine=           # embedded|kaldi [by KALDI_ROOT]
device=           # cpu|cuda [cuda if there is one]
seed=0            # <n>: seed of targets, starts and draws

. utils/script.sh
[ $# -eq 0 ] || usage
in_recipe
. ./path.sh

eps=$(kaldi-uq check-eps "$eps")
asked=$(kaldi-uq recipe-attack --name="$name" --statistics="$statistics" ${eot_samples:+--eot-samples="$eot_samples"} \
  ${eps_level:+--eps-level="$eps_level"} ${fpr:+--fpr="$fpr"} --attack-opts="$attack_opts" -- "$attack")
read -r name conf attack_opts <<<"$asked"
need_files "stage 4 of run.sh, with --models $model," "exp/$model/final.safetensors"
if [ -n "$fpr" ]; then
  need_files "stage 5 of run.sh" "exp/$model/score_fit/results.jsonl"
  attack_opts="$attack_opts --fit exp/$model/score_fit/results.jsonl"
fi
steps/uq/attack.sh --nj "$nj" --cmd "$cmd" --eps "$eps" ${eps_level:+--eps-level "$eps_level"} --attack "$name" --attack-config "$conf" --num-utts "$num_utts" --results exp/results.json \
  ${target_text:+--target-text "$target_text"} ${attack_opts:+--attack-opts "$attack_opts"} "${model_opts[@]}" \
  "$data" data/lang "exp/$model" "exp/$model/graph" "exp/$model/attack_${name}_eps$eps"
tell_page exp/results.json
