#!/usr/bin/env bash
# The model that comes with the package: English digits at 16 kHz, robust, with a gate, below 2 MB.  It learns from
# synthesised speech alone: voices of espeak-ng and flite, disturbed in many ways.
#
# Usage: $0 [options]
#  e.g.: $0
#        $0 --out ../../kaldi_uq/models/digits
# Needs flite (apt-get install flite).  One seed, one result, on one kind of machine.
# Stages:
#   0 corpus, language        2 monophone system      4 detectors
#   1 features                3 acoustic model        5 the directory of the model
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0                # <n>: first stage to run
stop_stage=5           # <n>: last stage to run
flite=flite            # <program>: flite, a name on PATH or a path
corpus_opts="--num-train 3600 --num-fit 600 --num-test 400 --num-attack 200" # <options>: of local/prepare_synth.py
out=exp/digits         # <dir>: what becomes of it: model, tree, graph, lexicon and detectors
engine=                # embedded|kaldi [kaldi if KALDI_ROOT is set]
device=                # cpu|cuda [cuda if there is one]
seed=0                 # <n>: one seed, one result
nj=2                   # <n>: parallel jobs; they never change a result

. utils/script.sh
[ $# -eq 0 ] || usage
. ./path.sh
. ./cmd.sh
read -ra corpus_words <<<"$corpus_opts"
mkdir -p data exp
export OMP_WAIT_POLICY=passive # threads that wait sleep

begin() { # number what: whether the stage is to run
  [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ] || return 1
  echo "stage $1: $2"
}

if begin 0 "corpus, language"; then
  local/prepare_synth.py --seed "$seed" --nj "$nj" --spread 1.8 --flite "$flite" "${corpus_words[@]}" data
  local/disturb_mixed.py --seed "$seed" data/train data/train_mixed
  for set in fit test; do local/disturb_mixed.py --seed $((seed + 1)) "data/$set" "data/${set}_mixed"; done
  local/disturb_mixed.py --seed $((seed + 2)) --cut data/fit data/fit_cut # the gate has to know such recordings
  local/prepare_dict.py --lexicon words data/train/text data/local/dict
  utils/prepare_lang.sh "${engine_opts[@]}" --word-loop data/local/dict/words.txt data/local/dict '<SIL>' data/local/lang data/lang
fi

if begin 1 "features"; then
  steps/make_mfcc.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --mfcc-config conf/mfcc.conf data/train exp/make_mfcc/train data/mfcc
  steps/compute_cmvn_stats.sh --cmd "$train_cmd" "${engine_opts[@]}" data/train exp/make_mfcc/train data/mfcc
fi

if begin 2 "monophone system and alignments"; then
  steps/train_mono.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --seed "$seed" data/train data/lang exp/mono
  steps/align_si.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" data/train data/lang exp/mono exp/mono_ali
fi

if begin 3 "acoustic model (progress: exp/dnn/log/train.log)"; then
  # the alignments are those of the same speech before it was disturbed
  steps/uq/train.sh --cmd "$train_cmd" "${model_opts[@]}" --model dnn --mfcc-config conf/mfcc.conf \
    --train-config conf/robust.conf data/train_mixed data/lang exp/mono_ali exp/dnn
fi

if begin 4 "detectors"; then
  kaldi-uq fit-detector --device "${device:-cpu}" exp/dnn data/wav/fit/*.wav data/fit_{mixed,cut}/wav/*.wav
fi

if begin 5 "$out"; then
  ./export.sh exp/dnn data/lang "$out"
fi
