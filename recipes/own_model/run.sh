#!/usr/bin/env bash
# A network of one's own in the tool chain: train tdnn.py on the alignments of a recipe, decode with it, attack it at the
# waveform and detect the attack.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$(pwd)

recipe=                            # directory of the recipe; empty: ../tidigits
data=data                          # of these, paths of the recipe: directory of train, fit, test and attack
lang=data/lang                     # words and lexicon of the targets
ali=exp/mono_ali                   # alignments of data/train, with final.mdl and tree
graph=exp/mono/graph               # HCLG.fst of the same model
mfcc_config=conf/mfcc_16k.conf     # features: those of the alignment
attack_config=conf/pgd.conf        # options of the attack
attack=pgd                         # its name in the results
wrap=mc_dropout                    # mc_dropout, ensemble, vmg, or several of them
eps=0.02                           # largest change of a sample, full scale 1
num_attack=50                      # utterances to attack, at most
tdnn_opts=                         # further options of tdnn.py
engine=                            # embedded or kaldi; empty: by KALDI_ROOT
device=                            # cpu or cuda; empty: cuda if there is one
seed=0                             # of weights, draws, targets and starts

help_message="Usage: $0 [options]
After recipes/tidigits/run.sh, or with the options of another recipe.
 e.g.: $0
       $0 --wrap \"mc_dropout ensemble vmg\" --mfcc-config conf/mfcc_8k.conf
Options:
  --wrap \"mc_dropout vmg\"    of mc_dropout, ensemble and vmg [$wrap]
  --recipe <dir>             the recipe [../tidigits]
Paths in the recipe:
  --data <dir>               with train, fit, test and attack [$data]
  --lang <dir>               [$lang]
  --ali <dir>                of data/train [$ali]
  --graph <dir>              [$graph]
  --mfcc-config <file>       the alignment's [$mfcc_config]
  --attack-config <file>     [$attack_config]
Other options:
  --attack <name>            of the attack, in the results [$attack]
  --eps <e>                  largest change of a sample, full scale 1 [$eps]
  --num-attack <n>           utterances to attack, at most [$num_attack]
  --tdnn-opts <options>      further options: --num-epochs, --num-draws, ...
  --engine embedded|kaldi    [by KALDI_ROOT]
  --device cpu|cuda          [cuda if there is one]
  --seed <n>                 [$seed]
Writes exp/tdnn_<wrap> here: final.safetensors, attack_*/wav, results.json."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
die() { echo "$0: error: $*" >&2; exit 1; }
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
options+=(${engine:+--engine "$engine"} ${device:+--device "$device"} --seed "$seed" --eps "$eps" --attack "$attack")
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
