#!/usr/bin/env bash
# A network of one's own in the tool chain: train tdnn.py on the alignments of a recipe, decode with it, attack it at the
# waveform and detect the attack.  Every step is one that any recipe has, with --network.
#
# Usage: $0 [options]
#  e.g.: $0
#        $0 --wrap "mc_dropout ensemble vmg" --mfcc-config conf/mfcc_8k.conf
# After recipes/tidigits/run.sh, or with the options of another recipe.
# Writes exp/tdnn_<wrap> here, and exp/results.json.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$(pwd)

recipe=                            # <dir>: directory of the recipe [../tidigits]
data=data                          # <dir>: of the recipe, as the four next: with train, fit, test and attack
lang=data/lang                     # <dir>: words, lexicon and grammar
ali=exp/mono_ali                   # <dir>: alignments of data/train, with final.mdl and tree
mfcc_config=conf/mfcc_16k.conf     # <file>: features: those of the alignment
attack_config=conf/pgd.conf        # <file>: options of the attack, a path in the recipe too
attack=pgd                         # <name>: name of the attack in the results
wrap=mc_dropout                    # "<function> ...": functions of tdnn.py: plain, mc_dropout, ensemble, vmg
eps=0.02                           # <e>: largest change of a sample, full scale 1
num_attack=50                      # <n>: utterances to attack, at most, spread over data/attack
train_opts=                        # <options>: further options of kaldi-uq nnet-train: --num-epochs, ...
attack_opts=                       # <options>: further options of kaldi-uq nnet-attack
engine=                            # embedded|kaldi [by KALDI_ROOT]
device=                            # cpu|cuda [cuda if there is one]
seed=0                             # <n>: seed of weights, draws, targets and starts

. utils/script.sh
[ $# -eq 0 ] || usage
[ -n "$wrap" ] || die "--wrap names nothing"
[[ -z $recipe || $recipe == /* ]] || recipe=$called_from/$recipe
recipe=${recipe:-$here/../tidigits}
[ -d "$recipe" ] || die "--recipe $recipe: no such directory"
recipe=$(cd "$recipe" && pwd)
. ./path.sh
eps=$(kaldi-uq check-eps "$eps")
export OMP_WAIT_POLICY=passive # threads that wait sleep

cd "$recipe" # relative paths in wav.scp begin here
need_files "stage 0 of the recipe" {"$data/train","$data/fit","$data/test","$data/attack"}/wav.scp "$lang/L.fst"
need_files "stage 2 of the recipe" "$ali/final.mdl" "$ali/tree" "$ali/ali.1.gz"
[ "$num_attack" -le "$(wc -l <"$data/attack/utt2spk")" ] || num_attack=0 # all
uq=$here/steps/uq
results=$here/exp/results.json
for w in $wrap; do
  network=$here/tdnn.py:$w
  dir=$here/exp/tdnn_$w
  options=(--network "$network" "${model_opts[@]}")
  "$uq/train.sh" "${options[@]}" --mfcc-config "$mfcc_config" --train-config "$here/conf/train.conf" \
    ${train_opts:+--train-opts "$train_opts"} "$data/train" "$lang" "$ali" "$dir"
  "$uq/decode.sh" "${options[@]}" "$dir/graph" "$data/fit" "$dir" "$dir/score_fit"
  "$uq/decode.sh" "${options[@]}" --results "$results" "$dir/graph" "$data/test" "$dir" "$dir/score_test"
  "$uq/fit_detector.sh" "$dir" "$dir/score_fit"
  "$uq/attack.sh" "${options[@]}" --eps "$eps" --attack "$attack" --attack-config "$attack_config" --num-utts "$num_attack" \
    ${attack_opts:+--attack-opts "$attack_opts"} --results "$results" "$data/attack" "$lang" "$dir" "$dir/graph" \
    "$dir/attack_${attack}_eps$eps"
  "$uq/detect.sh" --seed "$seed" --results "$results" "$dir" "$dir/score_fit" "$dir/score_test" "$dir/attack_${attack}_eps$eps"
done
