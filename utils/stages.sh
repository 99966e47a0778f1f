# shellcheck shell=bash
# What the run.sh of the recipes here share, after script.sh: choices, runs, stages and their timing, the lists of attacks.
# To be sourced; only defines functions, which use the options of the script: stage, stop_stage, models, model_jobs,
# attack_jobs, nj, seed, engine, device, corpus_opts, eps.
# shellcheck disable=SC2154

# command_line WORDS...: a command as it can be typed again; where a corpus lies is this machine's affair
command_line() {
  local line="" previous="" word
  for word; do
    case $previous in
      --corpus-dir) word=DIR ;;
      --text) word=FILE ;;
    esac
    [[ $word != --corpus-dir=* ]] || word=--corpus-dir=DIR
    [[ $word != --text=* ]] || word=--text=FILE
    previous=$word
    [[ $word =~ ^[[:alnum:]_./=:@%+,-]+$ ]] || word=${word@Q}
    line="$line $word"
  done
  echo "${line# }"
}

# one_of NAME VALUE CHOICES...: an error if the option has another value
one_of() {
  local name=$1 value=$2 choice
  shift 2
  for choice; do [ "$value" != "$choice" ] || return 0; done
  die "--$name must be one of $*, got '$value'"
}

# check_options LAST [KINDS...]: of the options that all recipes have; the last stage has this number, the models are of these
# kinds, or else of those of the package
check_options() {
  local n m last=$1 kinds=("${@:2}") package
  [ -z "${engine:-}" ] || one_of engine "$engine" embedded kaldi
  for n in nj model_jobs attack_jobs seed stage stop_stage; do
    [[ ${!n} =~ ^(0|[1-9][0-9]*)$ ]] || die "--${n//_/-} must be a whole number, got '${!n}'"
  done
  [ "$nj" -ge 1 ] && [ "$model_jobs" -ge 1 ] && [ "$attack_jobs" -ge 1 ] || die "--nj, --model-jobs and --attack-jobs must be at least 1"
  [ "$stage" -le "$last" ] || die "--stage $stage: the last stage is $last"
  [ "$stage" -le "$stop_stage" ] || die "--stop-stage $stop_stage is before --stage $stage: nothing to do"
  if [ ${#kinds[@]} = 0 ]; then
    package=$(dirname -- "${BASH_SOURCE[0]}")/../kaldi_uq
    [ -d "$package" ] || package=${package%/kaldi_uq}/.. # installed: these scripts are in it
    for m in "$package"/nnet/kinds/[!_]*.py; do kinds+=("$(basename "$m" .py)"); done
  fi
  for m in $models; do
    one_of models "$m" "${kinds[@]}"
    [[ " ${models// /  } " != *" $m "*" $m "* ]] || die "--models names $m twice"
  done
}

# check_eps: eps holds bounds, afterwards each in its shortest form, as eps_level, where the script has that option; sets
# at_level: what the names of attacks end with
check_eps() {
  local e checked=
  for e in $eps; do checked="$checked $(kaldi-uq check-eps "$e")"; done
  eps=${checked# }
  [ -z "${eps_level:-}" ] || eps_level=$(kaldi-uq check-eps --option eps-level "$eps_level")
  [ "${eps_level:-}" != 0 ] || eps_level=
  # shellcheck disable=SC2034
  at_level=${eps_level:+-level$eps_level}
}

# use_run NAME: data and exp become links to runs/RUN/{data,exp}, RUN being NAME with seed and corpus_opts, so that runs with
# other options neither mix with this one nor lose it; only one run at a time
use_run() {
  local link before
  run=$1
  [ "$seed" = 0 ] || run=${run}_seed$seed
  read -ra corpus_words <<<"$corpus_opts"
  [ -z "$corpus_opts" ] || run=${run}_$(printf %s "${corpus_words[*]}" | tr -c "[:alnum:]." _)
  mkdir -p "runs/$run/data" "runs/$run/exp"
  hold runs/.lock "another run.sh is at work in $PWD; wait for it, or use another directory"
  before=$([ ! -L exp ] || readlink exp)
  for link in data exp; do
    [ -L $link ] || [ ! -e $link ] || die "$PWD/$link is a directory of somebody else's, expected none or a link; move it away"
    ln -sfn "runs/$run/$link" $link
  done
  [[ -z $before || $before == "runs/$run/exp" ]] ||
    echo "data and exp are now those of runs/$run; those of ${before%/exp} stay there, and come back with the command that made them" >&2
}

# record_environment NAME=VALUE...: engine, versions, device and these options in results.json
record_environment() { kaldi-uq record exp/results.json --environment "${model_opts[@]}" "${@/#/--option=}"; }

# stage_begin NUMBER NAME [FILES...]: whether the stage is to run; says so and starts its clock.  One that is done already is not,
# unless something that it depends on has changed: FILES are such things beside what earlier stages have made.
stage_begin() {
  local done=0
  ((stage <= $1 && $1 <= stop_stage)) || return 1
  stage_number=$1
  stage_name=${2%% (progress*}
  stage_files=("${@:3}")
  run_stage --begin || done=$?
  case $done in
    0) echo "=== stage $1: $2: up to date" >&2; return 1 ;;
    2) echo "=== stage $1: $2" >&2 ;;
    *) exit "$done" ;;
  esac
  preload
  stage_start=$(date +%s.%N)
}

# preload: from now on the commands of this run need not import the libraries, each for itself; where that fails they do
preload() {
  local place
  [ -z "${KALDI_UQ_PRELOADED:-}" ] || return 0
  place=$(mktemp -d) || return 0
  kaldi-uq preload "$place/socket" </dev/null >/dev/null 2>&1 &
  disown
  export KALDI_UQ_PRELOADED=$place/socket
}

stage_end() {
  kaldi-uq record exp/results.json --finished "$stage_name" \
    --timing "stage$stage_number=$(date +%s.%N | awk -v s="$stage_start" '{ print $1 - s }')"
  run_stage --end
}

# run_stage --begin|--end: is the present stage done, or record that it is; on options that change no result nothing depends
run_stage() {
  local word words=() skip=false
  for word in "${script_args[@]}"; do
    case $word in
      --stage=* | --stop-stage=* | --nj=* | --model-jobs=* | --attack-jobs=*) continue ;;
      --stage | --stop-stage | --nj | --model-jobs | --attack-jobs) skip=true; continue ;;
    esac
    $skip || words+=("$word")
    skip=false
  done
  kaldi-uq recipe-stage "$1" "runs/$run" "$stage_number" -- "${words[@]}" "${KALDI_ROOT:-}" "${stage_files[@]}"
}

# tell_summary REPORT-DIR: what a report says that was not to be made anew
tell_summary() {
  [ -f "$1/SUMMARY" ] || return 0
  cat "$1/SUMMARY"
  echo "The whole story, with audio: $PWD/$1/report.html"
}

# need STAGE FILES...: an error if one is missing, which that stage makes
need() {
  local n=$1 f
  shift
  for f; do [ -e "$f" ] || die "$f: no such file in runs/$run; stage $n makes it: the same command with --stage $n"; done
}

# make_features MFCC-CONFIG: features and statistics of the speakers of train and test
make_features() {
  local set
  for set in train test; do
    steps/make_mfcc.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --mfcc-config "$1" "data/$set" "exp/make_mfcc/$set" data/mfcc
    steps/compute_cmvn_stats.sh --cmd "$train_cmd" "${engine_opts[@]}" "data/$set" "exp/make_mfcc/$set" data/mfcc
  done
}

# at_a_time N COMMAND...: in the background, once fewer than N of those are at work that the calling function has begun, and not
# if one of them has failed.  That function has "local pids=() failed=0", and at its end all_of_them, which fails if one has failed
at_a_time() {
  if ((${#pids[@]} >= $1)); then
    wait "${pids[0]}" || failed=1
    pids=("${pids[@]:1}")
  fi
  [ "$failed" = 0 ] || return 0
  "${@:2}" &
  pids+=($!)
}
all_of_them() {
  local pid
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  [ "$failed" = 0 ] || exit 1
}

# on_gpu NUMBER COMMAND...: where there are several GPUs, with another one as the first, so that commands at the same time spread
on_gpu() {
  local all=() turn
  if [[ ${device:-cuda} == cuda ]]; then
    if [ -z "${gpus+known}" ]; then
      gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, - || true)
      [[ $gpus =~ ^[0-9]+(,[0-9]+)*$ ]] || gpus= # what it says where it cannot work
      gpus=${CUDA_VISIBLE_DEVICES-$gpus}
    fi
    IFS=, read -ra all <<<"$gpus"
  fi
  if ((${#all[@]} > 1)); then
    turn=$(($1 % ${#all[@]}))
    all=("${all[@]:turn}" "${all[@]:0:turn}")
    local -x CUDA_VISIBLE_DEVICES
    CUDA_VISIBLE_DEVICES=$(IFS=,; echo "${all[*]}")
  fi
  "${@:2}"
}

# each_model FUNCTION [CHECK]: runs it for every model, model_jobs at a time, which share the processors; fails if one fails, and
# then begins no other.  CHECK comes first, for every model: what is missing of one is said before anything is done for another
each_model() {
  local m pids=() failed=0 cores='' words number=0
  if [ -z "${OMP_NUM_THREADS:-}" ]; then
    read -ra words <<<"$models"
    cores=$(($(nproc) / (${#words[@]} < model_jobs ? ${#words[@]} : model_jobs)))
    local -x OMP_NUM_THREADS=$((cores > 1 ? cores : 1))
  fi
  for m in $models; do ${2:+"$2" "$m"}; done
  for m in $models; do
    on_gpu "$number" at_a_time "$model_jobs" "$1" "$m"
    number=$((number + 1))
  done
  all_of_them
}

# score_model MODEL [OPTIONS...]: decodes fit, for the detectors, and test, for the results
score_model() {
  local decode=(steps/uq/decode.sh --nj "$nj" --cmd "$decode_cmd" "${model_opts[@]}" "${@:2}")
  "${decode[@]}" "exp/$1/graph" data/fit "exp/$1" "exp/$1/score_fit"
  "${decode[@]}" --results exp/results.json "exp/$1/graph" data/test "exp/$1" "exp/$1/score_test"
}

# each_attack FUNCTION MODEL TABLE: calls FUNCTION MODEL NAME EPS NUM-UTTS DETECT OPTIONS... for what of a table is for the
# model, several at a time where model_jobs are more than the models.  A line of it:
#   <name> <eps>,...|none <number of utterances> <model>,...|all yes|no <options>...
each_attack() {
  local name bounds num_utts for detect options e pids=() failed=0 words count number=0 gpus=${CUDA_VISIBLE_DEVICES-}
  read -ra words <<<"$models"
  count=$((model_jobs > ${#words[@]} ? model_jobs / ${#words[@]} : 1))
  [ -z "${cores:-}" ] || local -x OMP_NUM_THREADS=$((cores > count ? cores / count : 1)) # of each_model, which calls this
  while read -r name bounds num_utts for detect options <&3; do
    [[ -n $name && $name != "#"* && $bounds != none ]] || continue
    [[ $for == all || ",$for," == *",$2,"* ]] || continue
    for e in ${bounds//,/ }; do
      # shellcheck disable=SC2086
      on_gpu "$number" at_a_time "$count" "$1" "$2" "$name" "$e" "$num_utts" "$detect" $options
      number=$(((number + 1) % count))
    done
  done 3<<<"$3"
  all_of_them
}
