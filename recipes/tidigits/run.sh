#!/usr/bin/env bash
# From wav files to a verdict: a digit recogniser, acoustic models that know their uncertainty, attacks on them at the
# waveform, and a detector of the attacks.
#
# Usage: $0 [options]
#  e.g.: ./run.sh
#        ./run.sh --corpus fsdd --corpus-dir /data/fsdd --models "dnn ensemble"
# Stages:
#   0 corpus, language        4 acoustic models   8 adaptive attacks, transfer,
#   1 features                5 clean accuracy      hard negatives, checks
#   2 monophone system        6 attacks           9 report
#   3 graph, monophone WER    7 detection
set -euo pipefail
called_from=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"

stage=0                # <n>: first stage to run
stop_stage=100         # <n>: last stage to run [9]
corpus=synth           # synth|fsdd|tidigits: synth is made here, the others need --corpus-dir
corpus_dir=            # <dir>: where fsdd or tidigits is
corpus_opts=           # <options>: further options of local/prepare_<corpus>.py: "--num-train 300", ...
held_out_speakers=     # "<spk> ...": fsdd: these speakers only in test and attack
preset=mini            # mini|full: mini: minutes; full: the paper's counts and its whole experiment
models=                # "<model> ...": of dnn, ensemble, dropout and bnn [mini: dnn; full: all four]
robust=true            # true|false: of each model a robust one too, exp/<model>-robust, which is attacked while it is trained
robust_conf=           # <file>: options of that training [mini: conf/robust_fast.conf; full: conf/robust.conf]
eps=                   # "<e> ...": bounds of the attacks, full scale 1 [mini: 0.02; full: 0.02 0.05, and 0 to 0.1 for figure 1]
eps_level=             # <l>: the bounds are for speech of this root mean square, full scale 1, and scaled by the level of each
                       # utterance; the attacks are filed as <name>-level<l> [they are absolute]
sceptic=               # true|false: stage 8 too, which takes longer than all others: adaptive attacks, transfer, hard
                       # negatives, checks [mini: false; full: true]
params=ours            # ours|paper: training parameters: conf/*.conf or conf/paper/*.conf
lexicon=words          # words|phones: one HMM a word, the paper's; or three states a phone
frontend=kaldi         # kaldi|torchaudio: torchaudio: the paper's front end
engine=                # embedded|kaldi [kaldi if KALDI_ROOT is set]
device=                # cpu|cuda [cuda if there is one]
seed=0                 # <n>: one seed, one result
nj=2                   # <n>: parallel jobs; they never change a result
model_jobs=2           # <n>: acoustic models trained, attacked and measured at a time; nor do these.  Where there are fewer models
                       # each has several attacks at a time
attack_jobs=1          # <n>: jobs that share an attack; they change no result

. utils/script.sh
[ $# -eq 0 ] || usage
. utils/stages.sh
command=$(command_line run.sh "${script_args[@]}") # what the report says that made it

one_of corpus "$corpus" synth fsdd tidigits
one_of preset "$preset" mini full
one_of lexicon "$lexicon" words phones
one_of frontend "$frontend" kaldi torchaudio
one_of params "$params" ours paper
if [ "$preset" = full ]; then
  models=${models:-dnn ensemble dropout bnn} eps=${eps:-0.02 0.05} sceptic=${sceptic:-true}
  robust_conf=${robust_conf:-conf/robust.conf}
else
  models=${models:-dnn} eps=${eps:-0.02} sceptic=${sceptic:-false}
  robust_conf=${robust_conf:-conf/robust_fast.conf}
fi
check_options 9
one_of sceptic "$sceptic" true false
one_of robust "$robust" true false
need_files "" "$robust_conf"
papers=${models// /,} # models that the paper's attack, the weaker one, is made on too
[ "$preset" = mini ] || papers=all
if [ "$robust" = true ]; then
  trained=
  for m in $models; do trained="$trained $m $m-robust"; done
  models=${trained# }
fi
[ "$sceptic" = true ] || { [ "$stage" != 8 ] && [ "$stop_stage" != 8 ]; } || die "stage 8 needs --sceptic true or --preset full"
if [ "$corpus" != synth ]; then
  [ -n "$corpus_dir" ] || die "--corpus $corpus needs --corpus-dir: where the corpus is"
  [[ $corpus_dir == /* ]] || corpus_dir=$called_from/$corpus_dir
  [ -d "$corpus_dir" ] || die "--corpus-dir $corpus_dir: no such directory"
  corpus_dir=$(cd "$corpus_dir" && pwd)
else
  corpus_dir=
fi
[ -z "$held_out_speakers" ] || [ "$corpus" = fsdd ] || die "--held-out-speakers is for --corpus fsdd"

. ./path.sh
. ./cmd.sh
check_eps

# The attacks of stage 6; stage 7 detects those that say so.  One a line (each_attack in utils/stages.sh).
bounds=${eps// /,}
attacks="
# name           eps      utterances  models       detect  options of local/attack.sh
pgd              $bounds  all         all          yes
paper-pgd        $bounds  all         $papers      yes"

# The attacks of stage 8, which detects them too: at the first bound of --eps and at 0.02.
questions="
adaptive-max_predictive_entropy  ${eps%% *}  20  all  yes  --attack adaptive --statistics max_predictive_entropy
adaptive-all-joint               ${eps%% *}  20  all  yes  --attack adaptive --statistics all-joint
psychoacoustic                   0.02        20  all  yes"
sceptic_eps=${eps%% *}
checks=(--num-utts 20)
negatives=(--white 10 --babble 10 --reverb 0.5 --gain -20)

if [ "$preset" = full ]; then
  # Figure 1: accuracy over eps, of 100 utterances.  Bounds of --eps are left out: their attacks on all utterances are there.
  curve=
  for e in 0 0.005 0.01 0.02 0.03 0.04 0.05 0.06 0.07 0.08 0.09 0.1; do
    [[ " $eps " == *" $e "* ]] || curve=${curve:+$curve,}$e
  done
  # The four last rows: does averaging the gradient over draws of a random model help the attacker (section 4.2)?
  attacks="$attacks
pgd              ${curve:-none}  100  all          no
paper-pgd        ${curve:-none}  100  all          no
pgd-eot1         0.02            100  dropout,bnn  no  --attack pgd --attack-opts=--eot-samples=1
pgd-eot10        0.02            100  dropout,bnn  no  --attack pgd --attack-opts=--eot-samples=10
paper-pgd-eot1   0.02            100  dropout,bnn  no  --attack paper-pgd --attack-opts=--eot-samples=1
paper-pgd-eot10  0.02            100  dropout,bnn  no  --attack paper-pgd --attack-opts=--eot-samples=10"

  sceptic_eps="0.005 0.01 0.02 0.05"
  bounds=${sceptic_eps// /,}
  reviewed=0.01,0.02
  several=ensemble,dropout,bnn # models of several posteriors
  # on fewer utterances than in stage 6: an attack that knows the detector costs rounds of an ordinary one
  questions="
adaptive-max_predictive_entropy   $bounds  100  all       yes  --attack adaptive --statistics max_predictive_entropy
adaptive-mean_predictive_entropy  $bounds  100  all       yes  --attack adaptive --statistics mean_predictive_entropy
adaptive-max_mutual_information   $bounds  100  $several  yes  --attack adaptive --statistics max_mutual_information
adaptive-max_akld                 $bounds  100  $several  yes  --attack adaptive --statistics max_akld
adaptive-all                      $bounds  100  $several  yes  --attack adaptive --statistics all
adaptive-all-joint                0.005,0.05  100  all       yes  --attack adaptive --statistics all-joint
# the strong attack with fewer steps; local/check_attacks.sh makes the one with twice as many
pgd-10                            0.02     100  all       no   --attack pgd --attack-opts=--num-steps=10
pgd-25                            0.02     100  all       no   --attack pgd --attack-opts=--num-steps=25
pgd-50                            0.02     100  all       no   --attack pgd --attack-opts=--num-steps=50
pgd-100                           0.02     100  all       no   --attack pgd --attack-opts=--num-steps=100
# other bounds than that of each sample, and no target
l2                                0.02     100  all       yes
snr                               0.02     100  all       yes
psychoacoustic                    0.02     100  all       yes
untargeted                        0.02     100  all       yes
# what a reviewer would bring against a defence: other starts, losses and targets, many steps; and whoever knows the
# default detector, at two rates of false alarms
speech-start                      $reviewed  all  all  no
logit-match                       $reviewed  500  all  no
decoder-margin                    $reviewed  500  all  no
ten-targets                       $reviewed  200  all  no
strongest                         $reviewed  200  all  no
black-box                         $reviewed  50   all  no
adaptive-all-joint                $reviewed  500  all  yes  --attack adaptive --statistics all-joint
selective-all-joint               $reviewed  500  all  yes  --attack selective --statistics all-joint
orthogonal-all-joint              $reviewed  200  all  yes  --attack orthogonal --statistics all-joint
adaptive-all-joint-fpr0.05        $reviewed  200  all  no   --attack adaptive --statistics all-joint --fpr 0.05"
  checks=(--num-utts 100)
  negatives=()
fi

make_attack() { # model name eps utterances detect options...
  local utts=0
  [ "$4" = all ] || utts=$(at_most "$4" data/attack/wav.scp)
  local/attack.sh --nj "$attack_jobs" --cmd "$decode_cmd" --model "$1" --eps "$3" --name "$2" --attack "$2" --num-utts "$utts" "${model_opts[@]}" \
    ${eps_level:+--eps-level "$eps_level"} "${@:6}"
}
detect_attack() { # model name eps utterances detect
  [ "$5" = no ] || local/detect.sh --model "$1" --eps "$3" --attack "$2$at_level" --seed "$seed"
}

# Each corpus and set of options has a directory of its own under runs/.
run=${corpus}_$preset
[ "$lexicon" = words ] || run=${run}_$lexicon
[ "$frontend" = kaldi ] || run=${run}_$frontend
[ "$params" = ours ] || run=${run}_paper-params
[ -z "$held_out_speakers" ] || run=${run}_without_${held_out_speakers// /-}
use_run "$run"
record_environment corpus="$corpus" preset="$preset" lexicon="$lexicon" frontend="$frontend" params="$params"
conf=conf
[ "$params" = ours ] || conf=conf/paper
mfcc_config=conf/mfcc_16k.conf
[ "$corpus" != fsdd ] || mfcc_config=conf/mfcc_8k.conf

if stage_begin 0 "corpus $corpus ($preset) and language"; then
  "local/prepare_$corpus.py" --preset "$preset" --seed "$seed" --nj "$nj" ${corpus_dir:+--corpus-dir "$corpus_dir"} \
    "${corpus_words[@]}" ${held_out_speakers:+--held-out-speakers "$held_out_speakers"} data
  local/prepare_dict.py --lexicon "$lexicon" data/train/text data/local/dict
  utils/prepare_lang.sh "${engine_opts[@]}" --word-loop data/local/dict/words.txt \
    data/local/dict '<SIL>' data/local/lang data/lang
  stage_end
fi

if stage_begin 1 "features"; then
  need 0 data/train/wav.scp data/test/wav.scp
  make_features "$mfcc_config"
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
  steps/decode.sh --nj "$nj" --cmd "$decode_cmd" "${engine_opts[@]}" --lattices false exp/mono/graph data/test exp/mono/decode_test
  kaldi-uq record exp/results.json --clean mono=exp/mono/decode_test/wer.json
  stage_end
fi

if stage_begin 4 "acoustic models: $models (progress: exp/<model>/log/train.log)"; then
  need 0 data/train/wav.scp data/lang/G.fst
  need 2 exp/mono_ali/final.mdl exp/mono_ali/ali.1.gz exp/mono_ali/num_jobs
  train_model() {
    local kind=${1%-robust} train=(--train-config "$conf/$1.conf")
    if [ "$1" != "$kind" ]; then
      train=(--train-config "$robust_conf")
      case $kind in # what only this kind has, or can afford
        ensemble) train+=(--train-opts "--hidden-dims 512,512,512") ;;
        dropout) train+=(--train-opts "--dropout 0.2 --num-train-samples 2") ;;
      esac
    fi
    steps/uq/train.sh --cmd "$train_cmd" "${model_opts[@]}" --model "$kind" "${train[@]}" \
      --mfcc-config "$mfcc_config" --frontend "$frontend" data/train data/lang exp/mono_ali "exp/$1"
  }
  each_model train_model
  stage_end
fi

need_model() { need 4 "exp/$1/final.safetensors" "exp/$1/graph/HCLG.fst"; }

if stage_begin 5 "clean accuracy and uncertainty"; then
  need 0 data/fit/wav.scp data/test/wav.scp
  each_model score_model need_model
  stage_end
fi

if stage_begin 6 "attacks at eps $eps (progress: exp/<model>/attack_*/log/attack.log)"; then
  need 0 data/attack/wav.scp
  attack_model() { each_attack make_attack "$1" "$attacks"; }
  each_model attack_model need_model
  stage_end
fi

need_scores() { need 5 "exp/$1/score_fit/results.jsonl" "exp/$1/score_test/results.jsonl"; }
need_attack() { [ "$5" = no ] || need 6 "exp/$1/attack_$2${at_level}_eps$3/results.jsonl"; }

if stage_begin 7 "detection"; then
  need_attacks() {
    need_scores "$1"
    each_attack need_attack "$1" "$attacks"
  }
  detect_model() { each_attack detect_attack "$1" "$attacks"; }
  each_model detect_model need_attacks
  stage_end
fi

if [ "$sceptic" = true ] && stage_begin 8 "a sceptic's questions: adaptive attacks, transfer, hard negatives, checks"; then
  need 0 data/attack/wav.scp
  make_and_detect() {
    make_attack "$@"
    detect_attack "$@"
  }
  worst_case() { # model eps name attacks...: over those of the attacks that were made
    local attack made=()
    for attack in "${@:4}"; do
      [ ! -f "exp/$1/attack_$attack${at_level}_eps$2/results.jsonl" ] || made+=("exp/$1/attack_$attack${at_level}_eps$2")
    done
    [ ${#made[@]} = 0 ] || kaldi-uq worst-case --name "$3$at_level" --results exp/results.json "${made[@]}"
  }
  need_pgd() {
    local e
    need_scores "$1"
    for e in $eps; do need 6 "exp/$1/attack_pgd${at_level}_eps$e/results.jsonl"; done
  }
  question_model() {
    local e
    for e in $sceptic_eps; do # for comparison
      [ ! -f "exp/$1/attack_pgd${at_level}_eps$e/results.jsonl" ] || detect_attack "$1" pgd "$e" all yes
    done
    each_attack make_and_detect "$1" "$questions"
    for e in $sceptic_eps; do
      # who is content with any of ten texts asks for something else: ten-targets has a row of its own
      worst_case "$1" "$e" worst pgd paper-pgd speech-start logit-match decoder-margin strongest black-box
      worst_case "$1" "$e" worst-known adaptive-all-joint orthogonal-all-joint selective-all-joint
    done
    [[ $models != *" "* ]] || local/transfer.sh --cmd "$decode_cmd" --attack "pgd$at_level" --eps "${eps%% *}" --models "$models" --listeners "$1" "${model_opts[@]}"
    local/negatives.sh --cmd "$decode_cmd" --model "$1" --eps "$eps" --attacks "pgd$at_level paper-pgd$at_level psychoacoustic$at_level" "${negatives[@]}" "${model_opts[@]}"
    local/check_attacks.sh --cmd "$decode_cmd" --model "$1" ${eps_level:+--eps-level "$eps_level"} "${checks[@]}" "${model_opts[@]}"
  }
  each_model question_model need_pgd
  stage_end
fi

if stage_begin 9 "report" exp/results.json; then
  for m in $models; do need 5 "exp/$m/score_test/results.jsonl"; done
  kaldi-uq report --command "$command" exp exp/report
  stage_end
elif ((stop_stage >= 9)); then
  tell_summary exp/report
fi
