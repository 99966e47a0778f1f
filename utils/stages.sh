# shellcheck shell=bash
# What the run.sh of the recipes here share: errors, choices, the stages and their timing.  To be sourced; only defines
# functions, which use the variables stage, stop_stage, models and model_jobs of the script.
# shellcheck disable=SC2154

# command_line WORDS...: a command as it can be typed again; where a corpus lies is this machine's affair
command_line() {
  local line="" previous="" word
  for word; do
    [ "$previous" != --corpus-dir ] || word=DIR
    [[ $word != --corpus-dir=* ]] || word=--corpus-dir=DIR
    previous=$word
    [[ $word =~ ^[[:alnum:]_./=:@%+,-]+$ ]] || word=${word@Q}
    line="$line $word"
  done
  echo "${line# }"
}

die() { echo "$0: error: $*" >&2; exit 1; }

# one_of NAME VALUE CHOICES...: an error if the option has another value
one_of() {
  local name=$1 value=$2 choice
  shift 2
  for choice; do [ "$value" != "$choice" ] || return 0; done
  die "--$name must be one of $*, got '$value'"
}

# check_stages LAST: stage and stop_stage are numbers and name a stage
check_stages() {
  local n
  for n in stage stop_stage; do
    [[ ${!n} =~ ^(0|[1-9][0-9]*)$ ]] || die "--${n//_/-} must be a whole number, got '${!n}'"
  done
  [ "$stage" -le "$1" ] || die "--stage $stage: the last stage is $1"
  [ "$stage" -le "$stop_stage" ] || die "--stop-stage $stop_stage is before --stage $stage: nothing to do"
}

# check_models: models names each kind once at most
check_models() {
  local m kinds=()
  for m in "$(dirname -- "${BASH_SOURCE[0]}")"/../kaldi_uq/nnet/kinds/[!_]*.py; do
    kinds+=("$(basename "$m" .py)")
  done
  for m in $models; do
    one_of models "$m" "${kinds[@]}"
    [[ " ${models// /  } " != *" $m "*" $m "* ]] || die "--models names $m twice"
  done
}

# use_run NAME: data and exp become links to runs/NAME/{data,exp}, so that runs with other options neither mix with this one
# nor lose it; only one run at a time
use_run() {
  local link
  mkdir -p "runs/$1/data" "runs/$1/exp"
  exec 9>runs/.lock
  flock -n 9 || die "another run.sh is at work in $PWD; wait for it, or use a copy of the repository"
  for link in data exp; do
    [ -L $link ] || [ ! -e $link ] || die "$PWD/$link is a directory of somebody else's, expected none or a link; move it away"
    ln -sfn "runs/$1/$link" $link
  done
  run=$1
}

# stage_begin NUMBER NAME: whether the stage is to run; says so and starts its clock
stage_begin() {
  if ((stage <= $1 && $1 <= stop_stage)); then
    echo "=== stage $1: $2" >&2
    stage_number=$1
    stage_start=$(date +%s.%N)
    return 0
  fi
  return 1
}

stage_end() {
  kaldi-uq record exp/results.json --timing "stage$stage_number=$(date +%s.%N | awk -v s="$stage_start" '{ print $1 - s }')"
}

# each_model FUNCTION: runs it for every model, model_jobs at a time; fails if one fails
each_model() {
  local m pids=() failed=0 pid
  for m in $models; do
    "$1" "$m" &
    pids+=($!)
    if ((${#pids[@]} >= model_jobs)); then
      wait "${pids[0]}" || failed=1
      pids=("${pids[@]:1}")
    fi
  done
  for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" || failed=1; done
  [ $failed = 0 ] || exit 1
}

# need STAGE FILES...: an error if one is missing, which that stage makes
need() {
  local n=$1 f
  shift
  for f; do [ -e "$f" ] || die "$f: no such file in runs/$run; stage $n makes it: the same command with --stage $n"; done
}
