# shellcheck shell=bash
# What a script begins with.  To be sourced after the defaults of its options, one a line:
#
#   #!/usr/bin/env bash
#   # What it does.
#   #
#   # Usage: $0 [options] <data-dir>
#   #  e.g.: $0 --nj 4 data/train
#   # Further text of the help.
#   set -euo pipefail
#
#   nj=2        # <n>: parallel jobs
#   engine=     # embedded|kaldi [by KALDI_ROOT]
#
#   . utils/script.sh
#   [ $# -eq 1 ] || usage
#
# It says what is run and parses the options (parse_options.sh).  The comments are the help: from "Usage:" on, then the
# options.  What stands in brackets at the end is the default; without them it is the value of the variable.
#
# What the script starts ends with it, also if it is killed (sentry.pl).
#
# Afterwards the script has the arguments, the functions below, by_hand (empty if another script calls it), and in arrays:
#   script_args   the words of the command line
#   engine_opts   --engine, if one was chosen, for the commands that have such options
#   model_opts    the same with --device and --seed

# _script_option VARIABLE COMMENT: its lines of the help, 80 columns wide.  The names begin with _ because VARIABLE may be any.
_script_option() {
  local _option="  --${1//_/-}" _text=$2 _line _words _word
  if [[ $_text =~ ^(\"[^\"]*\"|\<[^\>\ ]*\>|[^:\ ]*[\<\|][^:\ ]*)(:?\ (.*))?$ ]]; then
    _option+=" ${BASH_REMATCH[1]}"
    _text=${BASH_REMATCH[3]}
  fi
  [[ $_text == *']' || -z ${!1} ]] || _text+=" [${!1}]"
  read -ra _words <<<"$_text"
  printf -v _line '%-27s' "$_option"
  if ((${#_option} > 26)); then # its text begins on the next line
    help_message+=$_line$'\n'
    printf -v _line '%27s' ''
  fi
  for _word in "${_words[@]}"; do
    if ((${#_line} + 1 + ${#_word} > 80)); then
      help_message+=$_line$'\n'
      printf -v _line '%27s' ''
    fi
    _line+=" $_word"
  done
  help_message+=$_line$'\n'
}

# _script_help: help_message of the comments of the script
_script_help() {
  local _file=$0 _line _in_usage=false _i _options=() _comments=()
  [[ -f $_file ]] || _file=${0##*/} # the script has changed into its own directory
  help_message=
  while IFS= read -r _line && [[ $_line != *script.sh* ]]; do
    if [[ $_line == '# Usage: '* ]] || { [[ $_line == '#'* ]] && $_in_usage; }; then
      _in_usage=true
      _line=${_line#'#'}
      help_message+=${_line# }$'\n'
      continue
    fi
    _in_usage=false
    if [[ $_line =~ ^([a-z][a-zA-Z0-9_]*)=[^#]*[[:blank:]]'# '(.*)$ ]]; then
      _options+=("${BASH_REMATCH[1]}")
      _comments+=("${BASH_REMATCH[2]}")
    elif [[ ${#_comments[@]} -gt 0 && $_line =~ ^[[:blank:]]+'# '(.*)$ ]]; then
      _comments[-1]+=" ${BASH_REMATCH[1]}"
    fi
  done <"$_file"
  help_message=${help_message//\$0/"$0"}
  ((${#_options[@]} == 0)) || help_message+=$'Options:\n'
  for _i in "${!_options[@]}"; do _script_option "${_options[_i]}" "${_comments[_i]}"; done
  help_message=${help_message%$'\n'}
}

usage() { echo "$help_message" >&2; exit 1; }

die() { echo "$0: error: $*" >&2; exit 1; }

# hold FILE MESSAGE: lock FILE as long as this script or a job of it lives; an error with MESSAGE and the holder if another has
hold() {
  local holder="" ended=""
  type -P flock >/dev/null || return 0
  exec {held}>>"$1"
  if ! flock -n "$held"; then
    read -r holder <"$1" || true
    [[ ! $holder =~ ^process\ ([0-9]+) || -d /proc/${BASH_REMATCH[1]} ]] || ended=", which has ended and its jobs not yet"
    die "$2: ${holder:-no one knows which}$ended"
  fi
  printf 'process %d on %s since %(%F %T)T: %s\n' $$ "${HOSTNAME:-this machine}" -1 "$0 ${script_args[*]}" >"$1"
}

# in_turn FILE COMMAND...: run COMMAND, which may be a function, while no other script is at FILE
in_turn() {
  local turn
  exec {turn}<"$1"
  ! type -P flock >/dev/null || flock "$turn"
  "${@:2}"
  exec {turn}<&-
}

# hold_dir DIR [PLACE]: make DIR/PLACE [log], and hold a lock there: nobody else writes into DIR
hold_dir() {
  local place=$1/${2-log}
  mkdir -p "$place"
  hold "$place/.step.lock" "$1 is being written by another script; wait for it"
}

# need_files MAKER FILES...: an error if one is missing, which MAKER makes (empty: nobody in particular)
need_files() {
  local maker=$1 file
  shift
  for file; do [ -f "$file" ] || die "$file: no such file${maker:+; $maker makes it}"; done
}

# need_feats DATA: an error without features and statistics of the speakers
need_feats() {
  need_files steps/make_mfcc.sh "$1/feats.scp"
  need_files steps/compute_cmvn_stats.sh "$1/cmvn.scp"
}

# check_nj: nj is a number of jobs
check_nj() { [[ $nj =~ ^[1-9][0-9]*$ ]] || die "--nj must be a whole number above 0, got '$nj'"; }

# split_for_jobs [--per-utt] DATA: DATA/split<nj> or split<nj>utt, nj at most the number of its speakers or utterances
split_for_jobs() {
  local parts=spk2utt
  [ "$1" != --per-utt ] || parts=utt2spk
  nj=$(at_most "$nj" "${*: -1}/$parts")
  utils/split_data.sh "$@" "$nj" >/dev/null
}

# in_recipe: an error outside of a directory with a path.sh
in_recipe() { [ -f path.sh ] || die "there is no path.sh in $PWD; run it in the directory of a recipe"; }

# at_most N FILE: N, or the number of lines of FILE if that is less
at_most() {
  local lines
  lines=$(wc -l <"$2")
  echo $(($1 < lines ? $1 : lines))
}

# aligned_in LOGS...: how many utterances these logs of kaldi-uq align-gmm or train-* count, for the closing line; and what
# they warn of about the words of the text, which is nobody's to overlook
aligned_in() {
  grep -h '^WARNING .* words are not in .* and read as ' "$@" >&2 || true
  awk '/^kaldi-uq [a-z-]+: [0-9]+ utterances aligned, / { aligned += $3; failed += $6 }
    END { printf "%d utterances", aligned; if (failed) printf "; %d of %d could not be aligned", failed, aligned + failed }' "$@"
}

# tell_bad FILE: how many bad utterances a command has left out and named there, if any
tell_bad() { [ ! -s "$1" ] || echo "$0: $(wc -l <"$1") bad utterances are left out: $1" >&2; }

# run_jobs [JOB=1:N] LOG COMMAND...: have $cmd, or $driver, run them; if a job fails, an error of one line with the name of
# its log and what that ends with, which the programs of a grid do not say.  Ours, run.pl, does.
run_jobs() {
  local count=1 pattern runner=${driver:-$cmd} program job log failed=()
  # relative below this directory: Kaldi's run.pl quotes no name of a log, and this directory's may have a blank
  if [[ $1 == JOB=1:* ]]; then set -- "$1" "${2#"$PWD"/}" "${@:3}"; else set -- "${1#"$PWD"/}" "${@:2}"; fi
  pattern=$1
  if [[ $1 == JOB=1:* ]]; then
    count=${1#JOB=1:}
    pattern=$2
  fi
  read -r program _ <<<"$runner"
  if [[ $pattern == *[[:blank:]]* ]] && grep -qsE '>[[:blank:]]*[$]logfile' -- "$(type -P -- "$program")"; then
    die "$pattern: $program does not quote the name of a log, which has a blank; choose a directory whose path from here has none"
  fi
  for job in $(seq "$count"); do keep_log "$(job_log "$1" "$pattern" "$job")"; done # what is read below is of these jobs
  $runner "$@" && return
  [[ ! $program -ef $(dirname -- "${BASH_SOURCE[0]}")/run.pl ]] || exit 1
  for job in $(seq "$count"); do
    log=$(job_log "$1" "$pattern" "$job")
    grep -aqsE '^# .*(Ended \(code 0\)|with status 0$)' "$log" || failed+=("$log")
  done
  ((${#failed[@]})) || die "$program failed, though no job did; what it says is above"
  die "${#failed[@]} of $count jobs failed: $(job_end "${failed[0]}")"
}

# keep_log LOGS...: what earlier runs have said goes to LOG.1, the latest, ... LOG.5; an older one goes
keep_log() {
  local log n
  for log; do
    [ -e "$log" ] || continue
    for n in 4 3 2 1; do [ ! -e "$log.$n" ] || mv -f -- "$log.$n" "$log.$((n + 1))"; done
    mv -f -- "$log" "$log.1"
  done
}

# tell_page RESULTS: the last line of what was asked for by hand: the command that makes the page of these results anew
tell_page() {
  local program words
  [ -n "$by_hand" ] && [[ -f $1 && $1 == *results.json ]] || return 0
  program=$(type -P kaldi-uq)
  # the caller's own, if it is this one or that of this environment
  [ "$program" != "$kaldi_uq_of_caller" ] || program=kaldi-uq
  [ "${kaldi_uq_of_caller%/*}" != "$(dirname -- "$(type -P python3)")" ] || program=kaldi-uq
  words=("$program" report)
  [ -f data/attack/wav.scp ] || words+=(--num-examples 0) # no audio to show
  printf '%s: to see it on the page:' "$0" >&2
  printf ' %q' "${words[@]}" "$(dirname -- "$1")" "$(dirname -- "$1")/report" >&2
  echo >&2
}

# job_log ARRAY PATTERN JOB: the log of a job; ARRAY is JOB=1:N if there are several
job_log() { if [[ $1 == JOB=1:* ]]; then echo "${2//JOB/$3}"; else echo "$2"; fi; }

# job_end LOG: what the log of a job that failed says of its end
job_end() {
  local status said
  if [[ ! -f $1 ]]; then
    echo "$1: no such log; the job did not start, or its machine does not have this directory"
    return
  fi
  status=$(sed -nE 's/^# .*(Ended \(code |with status )([0-9]+(; signal [0-9]+)?).*/\2/p' "$1" | tail -n 1)
  # of a progress bar the last state; what runs the job goes on in the same line
  said=$(tr '\r' '\n' <"$1" | sed 's/^# .*//; s/# Accounting: .*//' | grep -a '[^[:blank:]]' | tail -n 200)
  said=$(grep -a ': error: ' <<<"$said" || tail -n 1 <<<"$said")
  said=$(tail -n 1 <<<"$said")
  case $status in
    "") status="it did not end (was it killed, or its machine?)" ;;
    137 | *'signal 9') status="killed by SIGKILL" ;;
    *) status="status $status" ;;
  esac
  [[ $said != *': error: '* ]] || status=""
  echo "$1: $status${status:+${said:+; the last line is: }}$said"
}

# training_driver: what waits for a GMM training, which on Kaldi's programs gives its jobs to $cmd itself
training_driver() {
  if [ "${engine:-${KALDI_ROOT:+kaldi}}" = kaldi ]; then echo utils/run.pl; else echo "$cmd"; fi
}

echo "$0 $*" >&2
# shellcheck disable=SC2034
script_args=("$@")
_script_help
. "$(dirname -- "${BASH_SOURCE[0]}")/parse_options.sh"
unset -f _script_option _script_help
kaldi_uq_of_caller=$(type -P kaldi-uq || true) # before any path.sh
by_hand=
if [[ -z ${KALDI_UQ_MASTER:-} ]]; then
  by_hand=true # no other script has called this one
  export KALDI_UQ_MASTER=$$.$RANDOM$RANDOM
  perl "$(dirname -- "${BASH_SOURCE[0]}")/sentry.pl" $$ "$KALDI_UQ_MASTER" </dev/null >/dev/null 2>&1 &
  disown # a script that waits for its jobs does not wait for this
fi
engine_opts=(${engine:+--engine "$engine"})
# shellcheck disable=SC2034
model_opts=("${engine_opts[@]}" ${device:+--device "$device"} ${seed:+--seed "$seed"})
