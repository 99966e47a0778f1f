#!/usr/bin/env bash
# Beyond digits: a recogniser of spoken commands with triphones and a bigram language model, the acoustic models that know
# their uncertainty on top of it, attacks that make it hear another command, and their detection.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0                # first stage to run
stop_stage=100         # last stage to run
preset=mini            # mini: minutes; full: all four models and more of everything
models=                # acoustic models; empty: dnn with mini, all four with full
engine=                # embedded or kaldi; empty: kaldi if KALDI_ROOT is set
nj=2                   # parallel jobs; they never change a result
model_jobs=1           # acoustic models trained, attacked and measured at a time; nor do these
seed=0                 # one seed, one result
corpus_opts=           # further options of local/prepare_commands.py: --num-train 300, ...
num_leaves=            # leaves of the triphone tree; empty: by preset
device=                # cpu or cuda; empty: cuda if there is one
eps=                   # perturbation bounds to attack with; empty: by preset
attacks=               # pgd, paper-pgd or both; empty: by preset

help_message="Usage: $0 [options]
 e.g.: $0
       $0 --preset full --models \"dnn ensemble\"
Options:
  --stage <n>, --stop-stage <n>    run these stages only [0 to 9]
  --preset mini|full               [$preset]
  --models \"dnn ensemble\"          of dnn, ensemble, dropout and bnn
                                   [mini: dnn; full: all four]
  --eps \"0.02 0.05\"                bounds of the attacks, full scale 1
                                   [mini: 0.02; full: 0.02 0.05]
  --attacks \"pgd paper-pgd\"        the strong one, the paper's
                                   [mini: pgd; full: both]
  --corpus-opts \"--num-train 300\"  further options of
                                   local/prepare_commands.py
  --num-leaves <n>                 leaves of the triphone tree, at most
                                   [mini: 300; full: 1000]
  --engine embedded|kaldi          [kaldi if KALDI_ROOT is set]
  --device cpu|cuda                [cuda if there is one]
  --seed <n>                       [$seed]
  --nj <n>                         parallel jobs [$nj]
  --model-jobs <n>                 acoustic models at a time (a GPU has room for
                                   all) [$model_jobs]
Stages:
  0 corpus, lexicon, language model    5 acoustic models
  1 features                           6 clean accuracy
  2 monophone system                   7 attacks
  3 triphone system                    8 detection
  4 graphs, GMM word error rate        9 report"

echo "$0 $*" >&2
. utils/stages.sh
command=$(command_line run.sh "$@")
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi
one_of preset "$preset" mini full
[ -z "$engine" ] || one_of engine "$engine" embedded kaldi
check_stages 9
for n in nj model_jobs seed; do
  [[ ${!n} =~ ^(0|[1-9][0-9]*)$ ]] || die "--${n//_/-} must be a whole number, got '${!n}'"
done
[ "$nj" -ge 1 ] && [ "$model_jobs" -ge 1 ] || die "--nj and --model-jobs must be at least 1"
if [ "$preset" = full ]; then
  models=${models:-dnn ensemble dropout bnn} eps=${eps:-0.02 0.05} attacks=${attacks:-pgd paper-pgd}
  num_leaves=${num_leaves:-1000} totgauss=$((8 * num_leaves)) mono_iters=30 tri_iters=35
else
  models=${models:-dnn} eps=${eps:-0.02} attacks=${attacks:-pgd}
  num_leaves=${num_leaves:-300} totgauss=$((5 * num_leaves)) mono_iters=12 tri_iters=20
fi
check_models
for a in $attacks; do one_of attacks "$a" pgd paper-pgd; done

. ./path.sh
. ./cmd.sh
checked=
for e in $eps; do checked="$checked $(kaldi-uq check-eps "$e")"; done
eps=${checked# }
run=$preset
[ "$seed" = 0 ] || run=${run}_seed$seed
read -ra extra <<<"$corpus_opts"
[ -z "$corpus_opts" ] || run=${run}_$(printf %s "${extra[*]}" | tr -c "[:alnum:]." _)
use_run "$run"

kaldi-uq record exp/results.json --environment --seed "$seed" ${engine:+--engine "$engine"} ${device:+--device "$device"} \
  --option corpus=commands --option preset="$preset" --option lexicon=phones --option frontend=kaldi --option params=ours
engine_opts=(${engine:+--engine "$engine"})
model_opts=("${engine_opts[@]}" ${device:+--device "$device"} --seed "$seed")

if stage_begin 0 "corpus ($preset), lexicon, bigram language model"; then
  local/prepare_commands.py --preset "$preset" --seed "$seed" --nj "$nj" ${extra[@]+"${extra[@]}"} data
  local/prepare_dict.py data/train data/spk2accent data/local/dict
  utils/prepare_lang.sh "${engine_opts[@]}" data/local/dict '<SIL>' data/local/lang data/lang
  kaldi-uq train-lm --exclude '<SIL>' --test-text data/test/text data/train/text data/local/dict/lexicon.txt \
    data/local/lm/bigram.arpa
  utils/format_lm.sh "${engine_opts[@]}" data/lang data/local/lm/bigram.arpa data/local/dict/lexicon.txt data/lang
  local/make_targets.py --seed "$seed" data/attack/text data/test/text data/local/dict/lexicon.txt \
    data/attack/target_text
  stage_end
fi

if stage_begin 1 "features"; then
  need 0 data/train/wav.scp data/test/wav.scp
  for set in train test; do
    steps/make_mfcc.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --mfcc-config conf/mfcc.conf "data/$set" "exp/make_mfcc/$set" data/mfcc
    steps/compute_cmvn_stats.sh --cmd "$train_cmd" "${engine_opts[@]}" "data/$set" "exp/make_mfcc/$set" data/mfcc
  done
  stage_end
fi

if stage_begin 2 "monophone system and alignments"; then
  need 0 data/lang/L.fst
  need 1 data/train/feats.scp data/train/cmvn.scp
  steps/train_mono.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --seed "$seed" --totgauss 600 \
    --num-iters "$mono_iters" data/train data/lang exp/mono
  steps/align_si.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" data/train data/lang exp/mono exp/mono_ali
  stage_end
fi

if stage_begin 3 "triphone system and alignments"; then
  need 2 exp/mono_ali/final.mdl exp/mono_ali/ali.1.gz
  steps/train_deltas.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --seed "$seed" --num-iters "$tri_iters" \
    "$num_leaves" "$totgauss" data/train data/lang exp/mono_ali exp/tri
  steps/align_si.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" data/train data/lang exp/tri exp/tri_ali
  stage_end
fi

if stage_begin 4 "decoding graphs and word error rates of the Gaussian mixtures"; then
  need 1 data/test/feats.scp data/test/cmvn.scp
  need 2 exp/mono/final.mdl
  need 3 exp/tri/final.mdl
  for m in mono tri; do
    utils/mkgraph.sh "${engine_opts[@]}" data/lang "exp/$m" "exp/$m/graph"
    steps/decode.sh --nj "$nj" --cmd "$decode_cmd" "${engine_opts[@]}" "exp/$m/graph" data/test "exp/$m/decode_test"
    kaldi-uq record exp/results.json --clean "$m=exp/$m/decode_test/wer.json"
  done
  stage_end
fi

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

if stage_begin 6 "clean accuracy and uncertainty"; then
  score_model() {
    local set
    need 0 data/fit/wav.scp data/test/wav.scp
    need 5 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"
    for set in fit test; do
      local options=("${model_opts[@]}")
      [ $set = fit ] || options+=(--results exp/results.json)
      steps/uq/decode.sh --nj "$nj" --cmd "$decode_cmd" "${options[@]}" "exp/$1/graph" "data/$set" "exp/$1" "exp/$1/score_$set"
    done
  }
  each_model score_model
  stage_end
fi

if stage_begin 7 "attacks ($attacks) at eps $eps"; then
  attack_model() {
    local a e conf
    need 0 data/attack/wav.scp data/attack/target_text
    need 5 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"
    for a in $attacks; do
      conf=conf/pgd.conf
      [ "$a" = pgd ] || conf=conf/paper/pgd.conf
      for e in $eps; do
        steps/uq/attack.sh --cmd "$decode_cmd" "${model_opts[@]}" --eps "$e" --attack "$a" --attack-config "$conf" \
          --target-text data/attack/target_text --results exp/results.json \
          data/attack data/lang "exp/$1" "exp/$1/graph" "exp/$1/attack_${a}_eps$e"
      done
    done
  }
  each_model attack_model
  stage_end
fi

if stage_begin 8 "detection"; then
  detect_model() {
    local a e
    need 6 "exp/$1/score_fit/results.jsonl" "exp/$1/score_test/results.jsonl"
    for a in $attacks; do
      for e in $eps; do
        need 7 "exp/$1/attack_${a}_eps$e/results.jsonl"
        steps/uq/detect.sh --cmd "$decode_cmd" --seed "$seed" \
          "exp/$1" "exp/$1/score_fit" "exp/$1/score_test" "exp/$1/attack_${a}_eps$e"
      done
    done
  }
  each_model detect_model
  stage_end
fi

if stage_begin 9 "report"; then
  for m in $models; do need 6 "exp/$m/score_test/results.jsonl"; done
  kaldi-uq report --command "$command" exp exp/report
  stage_end
fi
