#!/usr/bin/env bash
# A network of one's own in the tool chain: train tdnn.py on the alignments of a recipe, decode with it, attack it at the
# waveform and detect the attack.
#
# Usage: $0 [options]
#  e.g.: $0
#        $0 --wrap "mc_dropout ensemble vmg" --mfcc-config conf/mfcc_8k.conf
# After recipes/tidigits/run.sh, or with the options of another recipe.
# Writes exp/tdnn_<wrap> here: final.safetensors, attack_*/wav, results.json.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$(pwd)

recipe=                            # <dir>: directory of the recipe [../tidigits]
data=data                          # <dir>: of the recipe, as the four next: with train, fit, test and attack
lang=data/lang                     # <dir>: words and lexicon of the targets
ali=exp/mono_ali                   # <dir>: alignments of data/train, with final.mdl and tree
graph=exp/mono/graph               # <dir>: HCLG.fst of the same model
mfcc_config=conf/mfcc_16k.conf     # <file>: features: those of the alignment
attack_config=conf/pgd.conf        # <file>: options of the attack, a path in the recipe too
attack=pgd                         # <name>: name of the attack in the results
wrap=mc_dropout                    # "<wrapper> ...": of mc_dropout, ensemble and vmg
eps=0.02                           # <e>: largest change of a sample, full scale 1
num_attack=50                      # <n>: utterances to attack, at most
tdnn_opts=                         # <options>: further options of tdnn.py: --num-epochs, --num-draws, ...
engine=                            # embedded|kaldi [by KALDI_ROOT]
device=                            # cpu|cuda [cuda if there is one]
seed=0                             # <n>: seed of weights, draws, targets and starts

. utils/script.sh
[ $# -eq 0 ] || usage
[ -n "$wrap" ] || die "--wrap names nothing"
for w in $wrap; do
  [[ $w =~ ^(mc_dropout|ensemble|vmg)$ ]] || die "--wrap must be of mc_dropout, ensemble and vmg, got '$w'"
done
[[ -z $recipe || $recipe == /* ]] || recipe=$called_from/$recipe
recipe=${recipe:-$here/../tidigits}
[ -d "$recipe" ] || die "--recipe $recipe: no such directory"
recipe=$(cd "$recipe" && pwd)
. ./path.sh
eps=$(kaldi-uq check-eps "$eps")

cd "$recipe" # relative paths in wav.scp begin here
for f in {"$data/train","$data/fit","$data/test","$data/attack"}/wav.scp "$lang/L.fst"; do
  [ -f "$f" ] || die "$f: no such file in $recipe; stage 0 of the recipe makes it"
done
for f in "$ali/final.mdl" "$ali/tree" "$ali/ali.1.gz" "$graph/HCLG.fst"; do
  [ -f "$f" ] || die "$f: no such file in $recipe; stages 2 and 3 of the recipe make it (run.sh --stop-stage 3)"
done
for f in "$mfcc_config" "$attack_config"; do
  [ -f "$f" ] || die "$f: no such file in $recipe"
done

read -ra options <<<"$tdnn_opts"
options+=("${model_opts[@]}" --eps "$eps" --attack "$attack")
options+=(--data "$data" --lang "$lang" --ali "$ali" --graph "$graph" --num-attack "$num_attack")
export OMP_WAIT_POLICY=passive # threads that wait sleep
for w in $wrap; do
  dir=$here/exp/tdnn_$w
  mkdir -p "$dir/log"
  echo "$0: $w (progress: exp/tdnn_$w/log/tdnn.log)" >&2
  "$here/utils/run.pl" "$dir/log/tdnn.log" \
    python3 "$here/tdnn.py" --wrap "$w" --mfcc-config "$mfcc_config" --config "$attack_config" "${options[@]}" "$dir"
  grep -a "^tdnn_$w" "$dir/log/tdnn.log"
done
