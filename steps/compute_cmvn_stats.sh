#!/usr/bin/env bash
# Compute cepstral mean and variance statistics per speaker: cmvn.scp.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
engine=            # embedded or kaldi; empty: by KALDI_ROOT

help_message="Usage: $0 [options] <data-dir> [<log-dir> [<cmvn-dir>]]
 e.g.: $0 data/train exp/make_mfcc/train mfcc
Options:
  --engine embedded|kaldi   kaldi: by compute-cmvn-stats [by KALDI_ROOT]
  --cmd <command>           how to run the job [$cmd]"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

data=$1
logdir=${2:-$data/log}
cmvndir=${3:-$data/data}
name=$(basename "$data")

[ -f "$data/feats.scp" ] || {
  echo "$0: error: $data/feats.scp: no such file; steps/make_mfcc.sh makes it (stage 1 of the recipe)" >&2
  exit 1
}
mkdir -p "$logdir" "$cmvndir"
$cmd "$logdir/cmvn_$name.log" \
  kaldi-uq compute-cmvn ${engine:+--engine "$engine"} --log-dir "$logdir" "$data" "$cmvndir/cmvn_$name.ark" "$cmvndir/cmvn_$name.scp"
cp "$cmvndir/cmvn_$name.scp" "$data/cmvn.scp.tmp"
mv "$data/cmvn.scp.tmp" "$data/cmvn.scp"

echo "$0: $data: statistics of $(wc -l <"$data/cmvn.scp") speakers" >&2
