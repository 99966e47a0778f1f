#!/usr/bin/env bash
# From wav files to a verdict: a digit recogniser, acoustic models that know their uncertainty, attacks on them at the
# waveform, and a detector of the attacks.
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0                # first stage to run
stop_stage=100         # last stage to run
corpus=synth           # synth (made here), fsdd or tidigits (need --corpus-dir)
corpus_dir=            # where the corpus is
preset=mini            # mini: minutes; full: the paper's counts and its whole experiment
models=                # acoustic models; empty: dnn with mini, all four with full
engine=                # embedded or kaldi; empty: kaldi if KALDI_ROOT is set
nj=2                   # parallel jobs; they never change a result
model_jobs=1           # acoustic models trained, attacked and measured at a time; nor do these
seed=0                 # one seed, one result
lexicon=words          # words: one HMM a word, the paper's; phones: three states a phone
frontend=kaldi         # kaldi, or torchaudio for the paper's front end
params=ours            # training parameters: ours (conf/*.conf) or paper (conf/paper/*.conf)
corpus_opts=           # further options of local/prepare_<corpus>.py: --num-train 300, ...
held_out_speakers=     # fsdd: these speakers only in test and attack
device=                # cpu or cuda; empty: cuda if there is one
eps=                   # perturbation bounds to attack with; empty: by preset
sceptic=               # true: stage 8 too, which takes longer than all others; empty: with full

help_message="Usage: $0 [options]
 e.g.: ./run.sh
       ./run.sh --corpus fsdd --corpus-dir /data/fsdd --models \"dnn ensemble\"
Options:
  --stage <n>, --stop-stage <n>    run these stages only [0 to 9]
  --corpus synth|fsdd|tidigits     [$corpus]
  --corpus-dir <dir>               where fsdd or tidigits is
  --corpus-opts \"--num-train 300\"  further options of local/prepare_<corpus>.py
  --held-out-speakers \"a b\"        fsdd: only in test and attack
  --preset mini|full               full: the paper's counts and tables [$preset]
  --models \"dnn ensemble\"          of dnn, ensemble, dropout and bnn
                                   [mini: dnn; full: all four]
  --eps \"0.02 0.05\"                bounds of the attacks, full scale 1
                                   [mini: 0.02; full: 0.02 0.05, and 0 to 0.1
                                   for figure 1]
  --sceptic true|false             stage 8 too: adaptive attacks, transfer, hard
                                   negatives, checks [mini: false; full: true]
  --params ours|paper              training: conf/*.conf or conf/paper/*.conf
                                   [$params]
  --lexicon words|phones           one HMM a word, or a phone [$lexicon]
  --frontend kaldi|torchaudio      torchaudio: the paper's [$frontend]
  --engine embedded|kaldi          [kaldi if KALDI_ROOT is set]
  --device cpu|cuda                [cuda if there is one]
  --seed <n>                       [$seed]
  --nj <n>                         parallel jobs [$nj]
  --model-jobs <n>                 acoustic models at a time (a GPU has room for
                                   all) [$model_jobs]
Stages:
  0 corpus, language        4 acoustic models   8 adaptive attacks, transfer,
  1 features                5 clean accuracy      hard negatives, checks
  2 monophone system        6 attacks           9 report
  3 graph, monophone WER    7 detection"

echo "$0 $*" >&2
. utils/stages.sh
command=$(command_line run.sh "$@") # what the report says that made it
. utils/parse_options.sh
if [ $# -ne 0 ]; then
  echo "$help_message" >&2
  exit 1
fi

one_of corpus "$corpus" synth fsdd tidigits
one_of preset "$preset" mini full
one_of lexicon "$lexicon" words phones
one_of frontend "$frontend" kaldi torchaudio
one_of params "$params" ours paper
[ -z "$engine" ] || one_of engine "$engine" embedded kaldi
for n in nj model_jobs seed; do
  [[ ${!n} =~ ^(0|[1-9][0-9]*)$ ]] || die "--${n//_/-} must be a whole number, got '${!n}'"
done
[ "$nj" -ge 1 ] && [ "$model_jobs" -ge 1 ] || die "--nj and --model-jobs must be at least 1"
check_stages 9
if [ -z "$models" ]; then
  if [ "$preset" = full ]; then models="dnn ensemble dropout bnn"; else models=dnn; fi
fi
check_models
if [ -z "$sceptic" ]; then
  if [ "$preset" = full ]; then sceptic=true; else sceptic=false; fi
fi
one_of sceptic "$sceptic" true false
[ "$sceptic" = true ] || { [ "$stage" != 8 ] && [ "$stop_stage" != 8 ]; } || die "stage 8 needs --sceptic true or --preset full"
if [ "$corpus" != synth ]; then
  [ -n "$corpus_dir" ] || die "--corpus $corpus needs --corpus-dir: where the corpus is"
  [[ $corpus_dir == /* ]] || corpus_dir=$called_from/$corpus_dir
  [ -d "$corpus_dir" ] || die "--corpus-dir $corpus_dir: no such directory"
  corpus_dir=$(cd "$corpus_dir" && pwd)
fi
[ -z "$held_out_speakers" ] || [ "$corpus" = fsdd ] || die "--held-out-speakers is for --corpus fsdd"
if [ -z "$eps" ]; then
  if [ "$preset" = full ]; then eps="0.02 0.05"; else eps=0.02; fi
fi
# Figure 1: accuracy over eps, 100 utterances each, as in the paper; where eps is in both lists, all utterances serve both.
curve_eps=
curve_utts=100
[ "$preset" = mini ] || curve_eps="0 0.005 0.01 0.02 0.03 0.04 0.05 0.06 0.07 0.08 0.09 0.1"

# Stage 8 looks at fewer utterances, because an attack that knows the detector costs rounds of an ordinary one.
if [ "$preset" = full ]; then
  sceptic_utts=100
  sceptic_eps="0.005 0.01 0.02 0.05"
  sceptic_steps="10 25 50 100" # of the strong attack, besides its own number and twice that
  other_attacks="l2 snr psychoacoustic untargeted"
  negatives=()
else
  sceptic_utts=20
  sceptic_eps=${eps%% *}
  sceptic_steps=
  other_attacks=psychoacoustic
  negatives=(--white 10 --babble 10 --reverb 0.5)
fi

. ./path.sh
. ./cmd.sh
checked=
for e in $eps; do checked="$checked $(kaldi-uq check-eps "$e")"; done
eps=${checked# }

# Each corpus and set of options has a directory of its own under runs/.
run=${corpus}_$preset
[ "$lexicon" = words ] || run=${run}_$lexicon
[ "$frontend" = kaldi ] || run=${run}_$frontend
[ "$params" = ours ] || run=${run}_paper-params
[ -z "$held_out_speakers" ] || run=${run}_without_${held_out_speakers// /-}
[ "$seed" = 0 ] || run=${run}_seed$seed
read -ra extra <<<"$corpus_opts"
[ -z "$corpus_opts" ] || run=${run}_$(printf %s "${extra[*]}" | tr -c "[:alnum:]." _)
use_run "$run"
conf=conf
[ "$params" = ours ] || conf=conf/paper
case $corpus in
  fsdd) mfcc_config=conf/mfcc_8k.conf ;;
  *) mfcc_config=conf/mfcc_16k.conf ;;
esac

kaldi-uq record exp/results.json --environment --seed "$seed" ${engine:+--engine "$engine"} ${device:+--device "$device"} \
  --option corpus="$corpus" --option preset="$preset" --option lexicon="$lexicon" --option frontend="$frontend" --option params="$params"
# what was chosen, for the steps that have such options
engine_opts=(${engine:+--engine "$engine"})
model_opts=("${engine_opts[@]}" ${device:+--device "$device"} --seed "$seed")

if stage_begin 0 "corpus $corpus ($preset) and language"; then
  case $corpus in
    synth) local/prepare_synth.py --preset "$preset" --seed "$seed" --nj "$nj" ${extra[@]+"${extra[@]}"} data ;;
    fsdd)
      local/prepare_fsdd.py --preset "$preset" --seed "$seed" --nj "$nj" --corpus-dir "$corpus_dir" ${extra[@]+"${extra[@]}"} \
        ${held_out_speakers:+--held-out-speakers "$held_out_speakers"} data
      ;;
    tidigits)
      local/prepare_tidigits.py --preset "$preset" --seed "$seed" --nj "$nj" --corpus-dir "$corpus_dir" \
        ${extra[@]+"${extra[@]}"} data
      ;;
  esac
  local/prepare_dict.py --lexicon "$lexicon" data/train/text data/local/dict
  utils/prepare_lang.sh "${engine_opts[@]}" --word-loop data/local/dict/words.txt \
    data/local/dict '<SIL>' data/local/lang data/lang
  stage_end
fi

if stage_begin 1 "features"; then
  need 0 data/train/wav.scp data/test/wav.scp
  for set in train test; do
    steps/make_mfcc.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --mfcc-config "$mfcc_config" "data/$set" "exp/make_mfcc/$set" data/mfcc
    steps/compute_cmvn_stats.sh --cmd "$train_cmd" "${engine_opts[@]}" "data/$set" "exp/make_mfcc/$set" data/mfcc
  done
  stage_end
fi

if stage_begin 2 "monophone system and alignments"; then
  need 0 data/lang/L.fst
  need 1 data/train/feats.scp data/train/cmvn.scp
  steps/train_mono.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --seed "$seed" data/train data/lang exp/mono
  steps/align_si.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" data/train data/lang exp/mono exp/mono_ali
  stage_end
fi

if stage_begin 3 "decoding graph and monophone word error rate"; then
  need 1 data/test/feats.scp data/test/cmvn.scp
  need 2 exp/mono/final.mdl
  utils/mkgraph.sh "${engine_opts[@]}" data/lang exp/mono exp/mono/graph
  steps/decode.sh --nj "$nj" --cmd "$decode_cmd" "${engine_opts[@]}" exp/mono/graph data/test exp/mono/decode_test
  kaldi-uq record exp/results.json --clean mono=exp/mono/decode_test/wer.json
  stage_end
fi

if stage_begin 4 "acoustic models: $models (progress: exp/<model>/log/train.log)"; then
  need 0 data/train/wav.scp data/lang/G.fst
  need 2 exp/mono_ali/final.mdl exp/mono_ali/ali.1.gz exp/mono_ali/num_jobs
  train_model() {
    steps/uq/train.sh --cmd "$train_cmd" "${model_opts[@]}" --model "$1" --train-config "$conf/$1.conf" \
      --mfcc-config "$mfcc_config" --frontend "$frontend" \
      data/train data/lang exp/mono_ali "exp/$1"
  }
  each_model train_model
  stage_end
fi

if stage_begin 5 "clean accuracy and uncertainty"; then
  score_model() {
    local set
    need 0 data/fit/wav.scp data/test/wav.scp
    need 4 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"
    for set in fit test; do
      local options=("${model_opts[@]}")
      [ $set = fit ] || options+=(--results exp/results.json)
      steps/uq/decode.sh --nj "$nj" --cmd "$decode_cmd" "${options[@]}" "exp/$1/graph" "data/$set" "exp/$1" "exp/$1/score_$set"
    done
  }
  each_model score_model
  stage_end
fi

if stage_begin 6 "attacks at eps $eps"; then
  attack_model() {
    local a e n num_attack options=(--model "$1" "${model_opts[@]}")
    need 0 data/attack/wav.scp
    need 4 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"
    num_attack=$(wc -l <data/attack/wav.scp)
    [ "$curve_utts" -le "$num_attack" ] || curve_utts=$num_attack
    for a in pgd paper-pgd; do
      for e in $eps; do local/attack.sh --eps "$e" --attack $a "${options[@]}"; done
      for e in $curve_eps; do
        [[ " $eps " == *" $e "* ]] || local/attack.sh --eps "$e" --attack $a --num-utts "$curve_utts" "${options[@]}"
      done
    done
    # section 4.2: does averaging the gradient over draws of a random model help the attacker?
    if [ -n "$curve_eps" ] && [[ $1 == dropout || $1 == bnn ]]; then
      for a in pgd paper-pgd; do
        for n in 1 10; do
          local/attack.sh --eps 0.02 --attack $a --eot-samples $n --num-utts "$curve_utts" "${options[@]}"
        done
      done
    fi
  }
  each_model attack_model
  stage_end
fi

if stage_begin 7 "detection"; then
  detect_model() {
    local a e
    need 5 "exp/$1/score_fit/results.jsonl" "exp/$1/score_test/results.jsonl"
    for a in pgd paper-pgd; do
      for e in $eps; do
        need 6 "exp/$1/attack_${a}_eps$e/results.jsonl"
        local/detect.sh --eps "$e" --model "$1" --attack $a --seed "$seed"
      done
    done
  }
  each_model detect_model
  stage_end
fi

if [ "$sceptic" = true ] && stage_begin 8 "a sceptic's questions: adaptive attacks, transfer, hard negatives, checks"; then
  question_model() {
    local a e s statistics="max_predictive_entropy mean_predictive_entropy" num_attack options
    need 0 data/attack/wav.scp
    num_attack=$(wc -l <data/attack/wav.scp)
    [ "$sceptic_utts" -le "$num_attack" ] || sceptic_utts=$num_attack
    options=(--model "$1" "${model_opts[@]}" --num-utts "$sceptic_utts")
    need 5 "exp/$1/score_fit/results.jsonl" "exp/$1/score_test/results.jsonl"
    for e in $eps; do need 6 "exp/$1/attack_pgd_eps$e/results.jsonl"; done
    [ "$1" = dnn ] || statistics="$statistics max_mutual_information max_akld all" # of several posteriors
    [ "$preset" = full ] || statistics=max_predictive_entropy
    for e in $sceptic_eps; do
      [ ! -f "exp/$1/attack_pgd_eps$e/results.jsonl" ] || local/detect.sh --eps "$e" --model "$1" --attack pgd --seed "$seed"
      for s in $statistics; do
        local/attack.sh --eps "$e" --attack adaptive --statistics "$s" "${options[@]}"
        local/detect.sh --eps "$e" --model "$1" --attack "adaptive-$s" --seed "$seed"
      done
    done
    for s in $sceptic_steps; do
      local/attack.sh --eps 0.02 --attack pgd --name "pgd-$s" --attack-opts "--num-steps $s" "${options[@]}"
    done
    for a in $other_attacks; do
      local/attack.sh --eps 0.02 --attack "$a" "${options[@]}"
      local/detect.sh --eps 0.02 --model "$1" --attack "$a" --seed "$seed"
    done
    [[ $models != *" "* ]] || local/transfer.sh --eps "${eps%% *}" --models "$models" --listeners "$1" "${model_opts[@]}"
    local/negatives.sh --model "$1" --eps "$eps" "${negatives[@]}" "${model_opts[@]}"
    local/check_attacks.sh --model "$1" --num-utts "$sceptic_utts" "${model_opts[@]}"
  }
  each_model question_model
  stage_end
fi

if stage_begin 9 "report"; then
  for m in $models; do need 5 "exp/$m/score_test/results.jsonl"; done
  kaldi-uq report --command "$command" exp exp/report
  stage_end
fi
