#!/usr/bin/env bash
# Benign but hard audio: how often do the detectors of a model call it an attack, and how well do they tell it apart?
set -euo pipefail

model=dnn               # directory under exp/
data=data/test          # benign utterances to disturb
fit=data/fit            # that the detectors are fitted on
white="20 10 5 0"       # SNRs of white noise, dB
babble="20 10 5 0"      # SNRs of other utterances at the same time, dB
num_talkers=6           # of a babble
reverb="0.2 0.5 0.8"    # reverberation times, s
eps=0.02                # eps of the uniform noise, and of the attacks to tell from all this
attacks="pgd paper-pgd psychoacoustic"   # names of these attacks; one that was not made at an eps is left out
fpr=0.01                # false-positive rate of the thresholds
engine=                 # embedded or kaldi; empty: by KALDI_ROOT
device=                 # cpu or cuda; empty: cuda if there is one
seed=0                  # seed of the noise and the draws
cmd=utils/run.pl        # where the jobs run

help_message="Usage: $0 [options]
In a recipe directory, after run.sh has trained and scored.
 e.g.: $0 --model ensemble --eps \"0.02 0.05\"
Options:
  --model <name>            directory under exp/ [$model]
  --data <dir>              benign utterances to disturb [$data]
  --fit <dir>               that the detectors are fitted on [$fit]
  --white \"<snr> ...\"       SNRs of white noise, dB [$white]
  --babble \"<snr> ...\"      SNRs of other utterances at the same time, dB
                            [$babble]
  --num-talkers <n>         of a babble [$num_talkers]
  --reverb \"<rt60> ...\"     reverberation times, s [$reverb]
  --eps \"<e> ...\"           of uniform noise, and of the attacks to tell from
                            all this [$eps]
  --attacks \"<name> ...\"    names of these attacks; one that was not made is
                            left out [$attacks]
  --fpr <rate>              false-positive rate of the thresholds [$fpr]
  --engine embedded|kaldi   [by KALDI_ROOT]
  --device cpu|cuda         [cuda if there is one]
  --seed <n>                seed of the noise and the draws [$seed]
  --cmd <command>           how to run the jobs [$cmd]
Writes <data>_<kind><level>, exp/<model>/score_<set> and exp/results.json."

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

dir=exp/$model
fit_scores=$dir/score_$(basename "$fit")
[ -f "$dir/final.safetensors" ] || {
  echo "$0: error: $dir/final.safetensors: no such file; stage 4 of run.sh makes it (run.sh --models \"$model\")" >&2
  exit 1
}
for d in "$fit_scores" "$dir/score_$(basename "$data")"; do
  [ -f "$d/results.jsonl" ] || { echo "$0: error: $d/results.jsonl: no such file; stage 5 of run.sh makes it" >&2; exit 1; }
done
[ -f "$data/wav.scp" ] || { echo "$0: error: $data/wav.scp: no such file (stage 0 of run.sh makes it)" >&2; exit 1; }

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
options=(${engine:+--engine "$engine"} ${device:+--device "$device"} --seed "$seed")
mkdir -p "$dir/negatives/log"

measure() { # kind level set: rows for results.json
  $cmd "$dir/negatives/log/$(basename "$3").log" \
    kaldi-uq nnet-negatives --model "$model" --kind "$1" --level "$2" --fpr "$fpr" --results exp/results.json \
    --fit-data "$fit" --fit "$fit_scores" --data "$3" --scored "$dir/score_$(basename "$3")" ${attack_dirs[@]+"${attack_dirs[@]}"}
}
negative() { # kind level options of kaldi-uq disturb-data...
  local kind=$1 level=$2 set=${data}_$1$2
  shift 2
  # the audio is the same for all models, which may be measured at the same time
  flock "$data/wav.scp" $cmd "$dir/negatives/log/disturb_$(basename "$set").log" \
    kaldi-uq disturb-data --kind "$kind" --seed "$seed" "$@" "$data" "$set"
  steps/uq/decode.sh --cmd "$cmd" "${options[@]}" "$dir/graph" "$set" "$dir" "$dir/score_$(basename "$set")"
  measure "$kind" "$level" "$set"
}

measure clean 0 "$data"
for level in $white; do negative white "$level" --snr-db "$level"; done
for level in $babble; do negative babble "$level" --snr-db "$level" --num-talkers "$num_talkers"; done
for level in $reverb; do negative reverb "$level" --rt60 "$level"; done
for level in "${checked[@]}"; do negative uniform "$level" --eps "$level"; done

grep -ah ' calls ' "$dir"/negatives/log/*.log | sed "s|^|$0: |" >&2
