#!/usr/bin/env bash
# Benign but hard audio: how often do the detectors of a model call it an attack, and how well do they tell it apart?
#
# Usage: $0 [options]
#  e.g.: $0 --model ensemble --eps "0.02 0.05"
# In a recipe directory, after run.sh has trained and scored.  Writes
# <data>_<kind><level>, exp/<model>/score_<set> and exp/results.json.
set -euo pipefail

model=dnn               # <name>: directory under exp/
data=data/test          # <dir>: benign utterances to disturb
fit=data/fit            # <dir>: that the detectors are fitted on
white="20 10 5 0"       # "<snr> ...": SNRs of white noise, dB
babble="20 10 5 0"      # "<snr> ...": SNRs of other utterances at the same time, dB
num_talkers=6           # <n>: talkers of a babble
reverb="0.2 0.5 0.8"    # "<rt60> ...": reverberation times, s
gain="-10 -20"          # "<gain> ...": of the whole audio, dB
eps=0.02                # "<e> ...": of the uniform noise, and of the attacks to tell from all this
attacks="pgd paper-pgd psychoacoustic"   # "<name> ...": names of these attacks; one that was not made at an eps is left out
fpr=0.01                # <rate>: false-positive rate of the thresholds
engine=                 # embedded|kaldi [by KALDI_ROOT]
device=                 # cpu|cuda [cuda if there is one]
seed=0                  # <n>: seed of the noise and the draws
cmd=utils/run.pl        # <command>: how to run the jobs

. utils/script.sh
[ $# -eq 0 ] || usage
in_recipe
. ./path.sh

dir=exp/$model
fit_scores=$dir/score_$(basename "$fit")
need_files "stage 4 of run.sh, with --models $model," "$dir/final.safetensors"
need_files "stage 5 of run.sh" "$fit_scores/results.jsonl" "$dir/score_$(basename "$data")/results.jsonl"
need_files "stage 0 of run.sh" "$data/wav.scp"

attack_dirs=()
checked=()
for e in $eps; do
  e=$(kaldi-uq check-eps "$e")
  checked+=("$e")
  for a in $attacks; do
    [ ! -f "$dir/attack_${a}_eps$e/results.jsonl" ] || attack_dirs+=("$dir/attack_${a}_eps$e")
  done
done
[ ${#attack_dirs[@]} -gt 0 ] || echo "$0: none of $attacks at eps $eps in $dir: false-positive rates only" >&2
mkdir -p "$dir/negatives/log"

measure() { # kind level set: rows for results.json
  run_jobs "$dir/negatives/log/$(basename "$3").log" \
    kaldi-uq nnet-negatives --model "$model" --kind "$1" --level "$2" --fpr "$fpr" --results exp/results.json \
    --fit-data "$fit" --fit "$fit_scores" --data "$3" --scored "$dir/score_$(basename "$3")" "${attack_dirs[@]}"
}
negative() { # kind level options of kaldi-uq disturb-data...
  local kind=$1 level=$2 set=${data}_$1$2
  shift 2
  # the audio is the same for all models, which may be measured at the same time
  in_turn "$data/wav.scp" run_jobs "$dir/negatives/log/disturb_$(basename "$set").log" \
    kaldi-uq disturb-data --kind "$kind" --seed "$seed" "$@" "$data" "$set"
  steps/uq/decode.sh --cmd "$cmd" "${model_opts[@]}" "$dir/graph" "$set" "$dir" "$dir/score_$(basename "$set")"
  measure "$kind" "$level" "$set"
}

measure clean 0 "$data"
for level in $white; do negative white "$level" --snr-db "$level"; done
for level in $babble; do negative babble "$level" --snr-db "$level" --num-talkers "$num_talkers"; done
for level in $reverb; do negative reverb "$level" --rt60 "$level"; done
for level in $gain; do negative gain "$level" --gain-db "$level"; done
for level in "${checked[@]}"; do negative uniform "$level" --eps "$level"; done

grep -ah ' calls ' "$dir"/negatives/log/*.log | sed "s|^|$0: |" >&2
tell_page exp/results.json
