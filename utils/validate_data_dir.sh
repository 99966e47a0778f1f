#!/usr/bin/env bash
# Checks a data directory: which files it must have, their format, their order, and that they agree.
set -euo pipefail

help_message="Usage: utils/validate_data_dir.sh [options] <data-dir>
e.g.: utils/validate_data_dir.sh --no-feats data/train

Says the first thing that is wrong and exits with status 1.
Options:
  --no-feats, --no-text, --no-wav   feats.scp, text, wav.scp may be missing;
                                    checked if they are there
  --no-spk-sort                     do not check the order of the speakers
  --non-print                       allow control characters in text
  --allow-pipes                     lines of wav.scp and feats.scp may be
                                    commands; they are not run here. Those that
                                    only decode a file may be there anyway"

options=()
while [[ ${1:-} == --* ]]; do
  case $1 in
    --help) echo "$help_message"; exit 0 ;;
    --no-feats | --no-text | --no-wav | --no-spk-sort | --non-print | --allow-pipes) options+=("$1"); shift ;;
    *) echo "$0: error: unknown option $1 (see $0 --help)" >&2; exit 1 ;;
  esac
done
if [[ $# != 1 ]]; then
  echo "$help_message" >&2
  exit 1
fi

. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
exec kaldi-uq validate-data ${options[@]+"${options[@]}"} -- "$@"
