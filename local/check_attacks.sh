#!/usr/bin/env bash
# Are the attacks on a model meaningful?  Makes the small further attacks that the checks need, then runs the checks.
#
# Usage: $0 [options]
#  e.g.: $0 --model ensemble --num-utts 100
# In a recipe directory, after run.sh has trained and local/attack.sh attacked.
# Makes attack_fgsm_eps<e>, attack_<attack>-2x_eps<e>,
# attack_<attack>-restarts_eps<e>, attack_<black box>_eps<e>,
# attack_<attack>_eps0.2 and score_attack_uniform<e>
# in exp/<model>; writes section checks of exp/results.json.
set -euo pipefail

model=dnn       # <name>: directory under exp/
attack=pgd      # <name>: the attack that is checked; its options are in conf/<attack>.conf
eps=0.02        # <e>: at which it is compared with others
eps_level=      # <l>: the attacks are those whose eps is for speech of this root mean square [eps is absolute]
num_utts=20     # <n>: utterances of the further attacks, spread over the data; one of them is then a point
black_box=nes   # <name>: attack without gradients, in conf/<name>.conf; empty: none
data=data/attack  # <dir>: utterances to attack
undefended=dnn  # <name>: model without any defence, which has to fall
engine=         # embedded|kaldi [by KALDI_ROOT]
device=         # cpu|cuda [cuda if there is one]
seed=0          # <n>: seed of targets, starts, noise and draws
strict=false    # true|false: fail if a check fails; otherwise that is a finding
cmd=utils/run.pl  # <command>: how to run the jobs

. utils/script.sh
[ $# -eq 0 ] || usage
in_recipe
. ./path.sh

dir=exp/$model
eps=$(kaldi-uq check-eps "$eps")
[ -z "$eps_level" ] || eps_level=$(kaldi-uq check-eps --option eps-level "$eps_level")
level_opts=(${eps_level:+--eps-level "$eps_level"})
at_level=${eps_level:+-level$eps_level}
conf=conf/${attack/#paper-/paper/}.conf
need_files "stage 4 of run.sh, with --models $model," "$dir/final.safetensors"
need_files "stage 0 of run.sh" "$data/wav.scp"
need_files "" "$conf" ${black_box:+"conf/$black_box.conf"}
num_attack=$(wc -l <"$data/wav.scp")
num_utts=$(at_most "$num_utts" "$data/wav.scp")
attack_opts=(--model "$model" --data "$data" --num-utts "$num_utts" "${level_opts[@]}" "${model_opts[@]}")

# the attack itself where it was not made yet; on more utterances it is as good
[ -f "$dir/attack_${attack}${at_level}_eps$eps/results.jsonl" ] || local/attack.sh --eps "$eps" --attack "$attack" "${attack_opts[@]}"
local/attack.sh --eps "$eps" --attack fgsm "${attack_opts[@]}"
[ -z "$black_box" ] || local/attack.sh --eps "$eps" --attack "$black_box" "${attack_opts[@]}"
mkdir -p "$dir/checks/log"
kaldi-uq check-attacks --plan --attack "$attack" --config "$conf" --eps "$eps" exp >"$dir/checks/plan"
while IFS=$'\t' read -r name at options; do
  # what is up to date is left alone; of other utterances than before it would not be
  made=$dir/attack_${name}${at_level}_eps$at/results.jsonl
  count=$num_utts
  [ ! -f "$made" ] || count=$(wc -l <"$made")
  [ "$count" -lt "$num_attack" ] || count=0
  local/attack.sh --eps "$at" --attack "$attack" --name "$name" ${options:+--attack-opts "$options"} "${attack_opts[@]}" \
    --num-utts "$count" </dev/null
done <"$dir/checks/plan"

# noise as large as the attack, on the same audio; it is the same for all models, which may be checked at the same time
if [ -z "$eps_level" ]; then
  noise=${data}_uniform$eps
  in_turn "$data/wav.scp" run_jobs "$dir/checks/log/disturb.log" \
    kaldi-uq disturb-data --kind uniform --eps "$eps" --seed "$seed" "$data" "$noise"
  steps/uq/decode.sh --cmd "$cmd" "${model_opts[@]}" "$dir/graph" "$noise" "$dir" "$dir/score_$(basename "$noise")"
fi

strictly=()
[ "$strict" = false ] || strictly=(--strict)
kaldi-uq check-attacks --model "$model" --attack "$attack" --undefended "$undefended" "${engine_opts[@]}" "${level_opts[@]}" \
  ${black_box:+--black-box "$black_box"} --noise "$(basename "$data")_uniform" \
  ${device:+--device "$device"} "${strictly[@]}" exp
tell_page exp/results.json
