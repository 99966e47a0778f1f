#!/usr/bin/env bash
# Are the attacks on a model meaningful?  Makes the small further attacks that the checks need, then runs the checks.
set -euo pipefail

model=dnn       # directory under exp/
attack=pgd      # the attack that is checked; its options are in conf/<attack>.conf
eps=0.02        # at which it is compared with others
num_utts=20     # attack so many utterances, spread over the data; one of them is then a point
black_box=nes   # an attack without gradients, in conf/<name>.conf; empty: none
data=data/attack
undefended=dnn  # a model without any defence, which has to fall
engine=         # embedded or kaldi; empty: by KALDI_ROOT
device=         # cpu or cuda; empty: cuda if there is one
seed=0          # of targets, starts, noise and draws
strict=false    # fail if a check fails; otherwise that is a finding
cmd=utils/run.pl

help_message="Usage: $0 [options]
In a recipe directory, after run.sh has trained and local/attack.sh attacked.
 e.g.: $0 --model ensemble --num-utts 100
Options:
  --model <name>            directory under exp/ [$model]
  --attack <name>           the attack that is checked [$attack]
  --eps <e>                 at which it is compared with others [$eps]
  --num-utts <n>            utterances of the further attacks [$num_utts]
  --black-box <name>        attack without gradients; empty: none [$black_box]
  --data <dir>              utterances to attack [$data]
  --undefended <name>       model that has to fall [$undefended]
  --engine embedded|kaldi   [by KALDI_ROOT]
  --device cpu|cuda         [cuda if there is one]
  --seed <n>                [$seed]
  --strict true|false       fail if a check fails [$strict]
  --cmd <command>           how to run the jobs [$cmd]
Makes attack_fgsm_eps<e>, attack_<attack>-2x_eps<e>,
attack_<attack>-restarts_eps<e>, attack_<black box>_eps<e>,
attack_<attack>_eps0.2 and score_attack_uniform<e>
in exp/<model>; writes section checks of exp/results.json."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

dir=exp/$model
eps=$(kaldi-uq check-eps "$eps")
[ -f "$dir/final.safetensors" ] || {
  echo "$0: error: $dir/final.safetensors: no such file; stage 4 of run.sh makes it (run.sh --models \"$model\")" >&2
  exit 1
}
[ -f "$data/wav.scp" ] || { echo "$0: error: $data/wav.scp: no such file (stage 0 of run.sh makes it)" >&2; exit 1; }
conf=conf/$attack.conf
[ "$attack" != paper-pgd ] || conf=conf/paper/pgd.conf
[ -f "$conf" ] || { echo "$0: error: $conf: no such file; --attack names it" >&2; exit 1; }
[ -z "$black_box" ] || [ -f "conf/$black_box.conf" ] || {
  echo "$0: error: conf/$black_box.conf: no such file; --black-box names it" >&2
  exit 1
}
model_opts=(${engine:+--engine "$engine"} ${device:+--device "$device"} --seed "$seed")
num_attack=$(wc -l <"$data/wav.scp")
[ "$num_utts" -le "$num_attack" ] || num_utts=$num_attack
attack_opts=(--model "$model" --data "$data" --num-utts "$num_utts" "${model_opts[@]}")

# the attack itself where it was not made yet; on more utterances it is as good
[ -f "$dir/attack_${attack}_eps$eps/results.jsonl" ] || local/attack.sh --eps "$eps" --attack "$attack" "${attack_opts[@]}"
local/attack.sh --eps "$eps" --attack fgsm "${attack_opts[@]}"
[ -z "$black_box" ] || local/attack.sh --eps "$eps" --attack "$black_box" "${attack_opts[@]}"
mkdir -p "$dir/checks/log"
kaldi-uq check-attacks --plan --attack "$attack" --config "$conf" --eps "$eps" exp >"$dir/checks/plan"
while IFS=$'\t' read -r name at options; do
  # what is up to date is left alone; of other utterances than before it would not be
  made=$dir/attack_${name}_eps$at/results.jsonl
  count=$num_utts
  [ ! -f "$made" ] || count=$(wc -l <"$made")
  [ "$count" -lt "$num_attack" ] || count=0
  local/attack.sh --eps "$at" --attack "$attack" --name "$name" ${options:+--attack-opts "$options"} "${attack_opts[@]}" \
    --num-utts "$count" </dev/null
done <"$dir/checks/plan"

# noise as large as the attack, on the same audio; it is the same for all models, which may be checked at the same time
noise=${data}_uniform$eps
flock "$data/wav.scp" $cmd "$dir/checks/log/disturb.log" \
  kaldi-uq disturb-data --kind uniform --eps "$eps" --seed "$seed" "$data" "$noise"
steps/uq/decode.sh --cmd "$cmd" "${model_opts[@]}" "$dir/graph" "$noise" "$dir" "$dir/score_$(basename "$noise")"

strictly=()
[ "$strict" = false ] || strictly=(--strict)
kaldi-uq check-attacks --model "$model" --attack "$attack" --undefended "$undefended" ${engine:+--engine "$engine"} \
  ${black_box:+--black-box "$black_box"} --noise "$(basename "$data")_uniform" \
  ${device:+--device "$device"} ${strictly[@]+"${strictly[@]}"} exp
