#!/usr/bin/env bash
# Compute MFCC features of a data directory: feats.scp, utt2num_frames, frame_shift.
#
# Usage: $0 [options] <data-dir> [<log-dir> [<mfcc-dir>]]
#  e.g.: $0 --nj 4 data/train exp/make_mfcc/train mfcc
set -euo pipefail

nj=2                         # <n>: parallel jobs; they never change a value
cmd=utils/run.pl             # <command>: how to run the jobs
mfcc_config=conf/mfcc.conf   # <file>: Kaldi's options of compute-mfcc-feats
engine=                      # embedded|kaldi: kaldi: by compute-mfcc-feats [by KALDI_ROOT]
allow_pipes=false            # true|false: run lines of wav.scp that are commands

. utils/script.sh
[ $# -ge 1 ] && [ $# -le 3 ] || usage
. ./path.sh

data=$1
logdir=${2:-$data/log}
mfccdir=${3:-$data/data}
name=$(basename "$data")

need_files "the data preparation" "$data/wav.scp" "$data/utt2spk"
need_files "" "$mfcc_config"
check_nj
pipes=()
[ "$allow_pipes" = false ] || pipes=(--allow-pipes)
utils/validate_data_dir.sh --no-text --no-feats "${pipes[@]}" "$data"
hold_dir "$data" .   # whatever directory the logs are in
split_for_jobs --per-utt "$data"
mkdir -p "$logdir" "$mfccdir"
rm -f "$data/feats.scp"   # it points into the archives that are now replaced

$cmd "JOB=1:$nj" "$logdir/make_mfcc_$name.JOB.log" \
  kaldi-uq compute-mfcc "${engine_opts[@]}" --job JOB "${pipes[@]}" --mfcc-config "$mfcc_config" \
  --num-frames "$logdir/utt2num_frames.JOB" \
  "$data/split${nj}utt/JOB" "$mfccdir/raw_mfcc_$name.JOB.ark" "$mfccdir/raw_mfcc_$name.JOB.scp"

join_parts() {
  local n
  for n in $(seq "$nj"); do cat "$1.$n${3:-}"; done | LC_ALL=C sort >"$2.tmp"
  mv "$2.tmp" "$2"
}
join_parts "$mfccdir/raw_mfcc_$name" "$data/feats.scp" .scp
join_parts "$logdir/utt2num_frames" "$data/utt2num_frames"
kaldi-uq frame-shift "$mfcc_config" >"$data/frame_shift.tmp"
mv "$data/frame_shift.tmp" "$data/frame_shift"

echo "$0: $data: features of $(wc -l <"$data/feats.scp") utterances" >&2
