#!/usr/bin/env bash
# End to end: one network from the waveform to characters, trained with the CTC loss; its uncertainty, attacks on it at the
# waveform, and their detection.
#
# Usage: $0 [options]
#  e.g.: ./run.sh
#        ./run.sh --data ../tidigits/data --models "plain ensemble"
# Stages:
#   0 data          2 clean accuracy, detectors    4 detection
#   1 networks      3 attacks                      5 report
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0              # <n>: first stage to run
stop_stage=100       # <n>: last stage to run
data=                # <dir>: with train, fit, test and attack [synthetic digits, made here]
models=dropout       # "<kind> ...": kinds of the network: plain, dropout, ensemble, vmg
eps=0.02             # <e>: largest change of a sample, full scale 1
num_attack=20        # <n>: utterances to attack, spread over the set; 0: all
statistic=max_predictive_entropy  # <name>: whose detector the adaptive attack has to pass
net_opts=            # <options>: further options of net.py: --num-epochs, ...
attack_opts=         # <options>: further options of both attacks: --num-steps, ...
corpus_opts=         # <options>: further options of local/prepare_synth.py: --num-train 300, ...
nj=2                 # <n>: processes that make the digits
model_jobs=2         # <n>: networks trained, attacked and measured at a time
attack_jobs=1        # <n>: jobs that share an attack; they change no result
seed=0               # <n>: one seed, one result

. utils/script.sh
. utils/stages.sh
command=$(command_line run.sh "${script_args[@]}")
[ $# -eq 0 ] || usage
[ -n "$models" ] || die "--models names nothing"
check_options 5 plain dropout ensemble vmg
run=synth
if [ -n "$data" ]; then
  [[ $data == /* ]] || data=$called_from/$data
  for set in train fit test attack; do need_files "" "$data/$set/wav.scp"; done
  data=$(cd "$data" && pwd)
  run=$(printf %s "${data#/}" | tr -c "[:alnum:].-" _)
fi
. ./path.sh
. ./cmd.sh
python3 -c 'import sys, importlib.util as u; sys.exit(u.find_spec("torchaudio") is None)' ||
  die "net.py needs torchaudio: pip install 'kaldi-uq[torchaudio]'"
check_eps
use_run "$run"
[ -z "$data" ] || ln -sfn "$data" data # so that relative paths in its tables are right if it is called data there too
own=(--recogniser net.py:load --seed "$seed")
kaldi-uq record exp/results.json --environment --seed "$seed"

if stage_begin 0 "data"; then
  [ -n "$data" ] || local/prepare_synth.py --seed "$seed" --nj "$nj" "${corpus_words[@]}" data
  stage_end
fi

if stage_begin 1 "networks: $models (progress: exp/<model>/log/train.log)"; then
  need 0 data/train/wav.scp
  train_model() {
    local options
    read -ra options <<<"$net_opts"
    mkdir -p "exp/$1/log"
    driver=$train_cmd run_jobs "exp/$1/log/train.log" \
      ./net.py --kind "$1" --seed "$seed" "${options[@]}" data/train "exp/$1"
  }
  each_model train_model
  stage_end
fi

if stage_begin 2 "clean accuracy, detectors"; then
  need_network() { need 1 "exp/$1/net.safetensors"; }
  score_model() {
    steps/uq/decode.sh --cmd "$decode_cmd" "${own[@]}" - data/fit "exp/$1" "exp/$1/score_fit"
    steps/uq/decode.sh --cmd "$decode_cmd" "${own[@]}" --results exp/results.json - data/test "exp/$1" "exp/$1/score_test"
    steps/uq/fit_detector.sh --cmd "$decode_cmd" "exp/$1" "exp/$1/score_fit"
  }
  each_model score_model need_network
  stage_end
fi

# the name of each attack, and its options beside conf/pgd.conf
declare -A attacks=([pgd]="" ["adaptive-$statistic"]="--statistics $statistic")

if stage_begin 3 "attacks at eps $eps"; then
  need_detector() { need 2 "exp/$1/detector/$statistic.json"; }
  attack_model() {
    local a
    for a in "${!attacks[@]}"; do
      steps/uq/attack.sh --nj "$attack_jobs" --cmd "$decode_cmd" "${own[@]}" --eps "$eps" --attack "$a" --attack-config conf/pgd.conf \
        --attack-opts "${attacks[$a]} $attack_opts" --num-utts "$num_attack" --results exp/results.json \
        data/attack - "exp/$1" - "exp/$1/attack_${a}_eps$eps"
    done
  }
  each_model attack_model need_detector
  stage_end
fi

if stage_begin 4 "detection"; then
  need_attacks() {
    local a
    for a in "${!attacks[@]}"; do need 3 "exp/$1/attack_${a}_eps$eps/results.jsonl"; done
  }
  detect_model() {
    local a
    for a in "${!attacks[@]}"; do
      steps/uq/detect.sh --cmd "$decode_cmd" --seed "$seed" \
        "exp/$1" "exp/$1/score_fit" "exp/$1/score_test" "exp/$1/attack_${a}_eps$eps"
    done
    kaldi-uq check-attacks --recogniser net.py:load --model "$1" exp
  }
  each_model detect_model need_attacks
  stage_end
fi

if stage_begin 5 "report" exp/results.json; then
  for m in $models; do need 2 "exp/$m/score_test/results.jsonl"; done
  kaldi-uq report --command "$command" exp exp/report
  stage_end
elif ((stop_stage >= 5)); then
  tell_summary exp/report
fi
