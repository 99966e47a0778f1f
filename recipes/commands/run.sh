#!/usr/bin/env bash
# Beyond digits: a recogniser of spoken commands with triphones and a bigram language model, the acoustic models that know
# their uncertainty on top of it, attacks that make it hear another command, and their detection.
#
# Usage: $0 [options]
#  e.g.: $0
#        $0 --preset full --models "dnn ensemble"
# Stages:
#   0 corpus, lexicon, language model    5 acoustic models
#   1 features                           6 clean accuracy
#   2 monophone system                   7 attacks
#   3 triphone system                    8 detection
#   4 graphs, GMM word error rate        9 report
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0                # <n>: first stage to run
stop_stage=100         # <n>: last stage to run [9]
corpus_opts=           # <options>: further options of local/prepare_commands.py: "--num-train 300", ...
preset=mini            # mini|full: mini: minutes; full: all four models and more of everything
models=                # "<model> ...": of dnn, ensemble, dropout and bnn [mini: dnn; full: all four]
eps=                   # "<e> ...": bounds of the attacks, full scale 1 [mini: 0.02; full: 0.02 0.05]
attacks=               # "<attack> ...": pgd, the strong one, and paper-pgd, the paper's [mini: pgd; full: both]
num_leaves=            # <n>: leaves of the triphone tree, at most [mini: 300; full: 1000]
engine=                # embedded|kaldi [kaldi if KALDI_ROOT is set]
device=                # cpu|cuda [cuda if there is one]
seed=0                 # <n>: one seed, one result
nj=2                   # <n>: parallel jobs; they never change a result
model_jobs=2           # <n>: acoustic models trained, attacked and measured at a time; nor do these
attack_jobs=1          # <n>: jobs that share an attack; they change no result

. utils/script.sh
[ $# -eq 0 ] || usage
. utils/stages.sh
. utils/triphones.sh
command=$(command_line run.sh "${script_args[@]}") # what the report says that made it

one_of preset "$preset" mini full
if [ "$preset" = full ]; then
  models=${models:-dnn ensemble dropout bnn} eps=${eps:-0.02 0.05} attacks=${attacks:-pgd paper-pgd}
  num_leaves=${num_leaves:-1000} totgauss=$((8 * num_leaves)) mono_iters=30 tri_iters=35
else
  models=${models:-dnn} eps=${eps:-0.02} attacks=${attacks:-pgd}
  num_leaves=${num_leaves:-300} totgauss=$((5 * num_leaves)) mono_iters=12 tri_iters=20
fi
check_options 9
for a in $attacks; do one_of attacks "$a" pgd paper-pgd; done

. ./path.sh
. ./cmd.sh
check_eps
use_run "$preset"
record_environment corpus=commands preset="$preset" lexicon=phones frontend=kaldi params=ours

if stage_begin 0 "corpus ($preset), lexicon, bigram language model"; then
  local/prepare_commands.py --preset "$preset" --seed "$seed" --nj "$nj" "${corpus_words[@]}" data
  local/prepare_dict.py data/train data/spk2accent data/local/dict
  utils/prepare_lang.sh "${engine_opts[@]}" data/local/dict '<SIL>' data/local/lang data/lang
  kaldi-uq train-lm --exclude '<SIL>' --test-text data/test/text data/train/text data/local/dict/lexicon.txt \
    data/local/lm/bigram.arpa
  utils/format_lm.sh "${engine_opts[@]}" data/lang data/local/lm/bigram.arpa data/local/dict/lexicon.txt data/lang
  local/make_targets.py --seed "$seed" data/attack/text data/test/text data/local/dict/lexicon.txt \
    data/attack/target_text
  stage_end
fi

triphone_stages # 1 to 4

# From here on it is what any recipe adds: steps/uq on its data, language, alignment and graph directories.
if stage_begin 5 "acoustic models: $models (progress: exp/<model>/log/train.log)"; then
  need 0 data/train/wav.scp data/lang/G.fst
  need 3 exp/tri_ali/final.mdl exp/tri_ali/ali.1.gz exp/tri_ali/num_jobs
  train_model() {
    steps/uq/train.sh --cmd "$train_cmd" "${model_opts[@]}" --model "$1" --train-config "conf/$1.conf" \
      --mfcc-config conf/mfcc.conf data/train data/lang exp/tri_ali "exp/$1"
  }
  each_model train_model
  stage_end
fi

need_model() { need 5 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"; }

if stage_begin 6 "clean accuracy and uncertainty"; then
  need 0 data/fit/wav.scp data/test/wav.scp
  each_model score_model need_model
  stage_end
fi

if stage_begin 7 "attacks ($attacks) at eps $eps"; then
  need 0 data/attack/wav.scp data/attack/target_text
  attack_model() {
    local a e
    for a in $attacks; do
      for e in $eps; do
        steps/uq/attack.sh --nj "$attack_jobs" --cmd "$decode_cmd" "${model_opts[@]}" --eps "$e" --attack "$a" \
          --attack-config "conf/${a/#paper-/paper/}.conf" --target-text data/attack/target_text --results exp/results.json \
          data/attack data/lang "exp/$1" "exp/$1/graph" "exp/$1/attack_${a}_eps$e"
      done
    done
  }
  each_model attack_model need_model
  stage_end
fi

detection_stages # 8 and 9
