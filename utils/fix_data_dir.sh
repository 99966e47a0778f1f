#!/usr/bin/env bash
# Mends a data directory: sorts its files and drops the utterances that are not in all of them.
set -euo pipefail

help_message="Usage: utils/fix_data_dir.sh <data-dir>
e.g.: utils/fix_data_dir.sh data/train

Says what it drops, and from which file it was missing. Files that it changes
are kept in <data-dir>/.backup. It fails, and changes nothing, if no utterance
would be left."

if [[ ${1:-} == --help ]]; then
  echo "$help_message"
  exit 0
fi
if [[ ${1:-} == --* ]]; then
  echo "$0: error: unknown option $1 (see $0 --help)" >&2
  exit 1
fi
if [[ $# != 1 ]]; then
  echo "$help_message" >&2
  exit 1
fi

. "$(dirname -- "${BASH_SOURCE[0]}")/env.sh"
exec kaldi-uq fix-data -- "$@"
