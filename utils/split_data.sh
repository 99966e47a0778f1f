#!/usr/bin/env bash
# Splits a data directory into parts for parallel jobs.
set -euo pipefail

help_message="Usage: utils/split_data.sh [--per-utt] <data-dir> <num-to-split>
e.g.: utils/split_data.sh data/train 4

Makes <data-dir>/split<N>/{1,2,...,N}, parts of about equal size, no speaker in
two of them. Does nothing if they are there and <data-dir> has not changed.
Options:
  --per-utt    split by utterance, into <data-dir>/split<N>utt: a speaker may be
               in two parts"

options=()
while [[ ${1:-} == --* ]]; do
  case $1 in
    --help) echo "$help_message"; exit 0 ;;
    --per-utt) options+=("$1"); shift ;;
    *) echo "$0: error: unknown option $1 (see $0 --help)" >&2; exit 1 ;;
  esac
done
if [[ $# != 2 ]]; then
  echo "$help_message" >&2
  exit 1
fi

. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
exec kaldi-uq split-data ${options[@]+"${options[@]}"} -- "$@"
