#!/usr/bin/env bash
# Compute cepstral mean and variance statistics per speaker: cmvn.scp.
#
# Usage: $0 [options] <data-dir> [<log-dir> [<cmvn-dir>]]
#  e.g.: $0 data/train exp/make_mfcc/train mfcc
set -euo pipefail

cmd=utils/run.pl   # <command>: how to run the job
engine=            # embedded|kaldi: kaldi: by compute-cmvn-stats [by KALDI_ROOT]

. utils/script.sh
[ $# -ge 1 ] && [ $# -le 3 ] || usage
. ./path.sh

data=$1
logdir=${2:-$data/log}
cmvndir=${3:-$data/data}
name=$(basename "$data")

need_files steps/make_mfcc.sh "$data/feats.scp"
hold_dir "$data" .   # whatever directory the logs are in
mkdir -p "$logdir" "$cmvndir"
run_jobs "$logdir/cmvn_$name.log" \
  kaldi-uq compute-cmvn "${engine_opts[@]}" --log-dir "$logdir" "$data" "$cmvndir/cmvn_$name.ark" "$cmvndir/cmvn_$name.scp"
cp "$cmvndir/cmvn_$name.scp" "$data/cmvn.scp.tmp"
mv "$data/cmvn.scp.tmp" "$data/cmvn.scp"

echo "$0: $data: statistics of $(wc -l <"$data/cmvn.scp") speakers" >&2
