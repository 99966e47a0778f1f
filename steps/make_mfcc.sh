#!/usr/bin/env bash
# Compute MFCC features of a data directory: feats.scp, utt2num_frames, frame_shift.
set -euo pipefail

nj=2                         # parallel jobs; they never change a value
cmd=utils/run.pl             # where the jobs run
mfcc_config=conf/mfcc.conf   # Kaldi's options of compute-mfcc-feats
engine=                      # embedded or kaldi; empty: by KALDI_ROOT
allow_pipes=false            # run lines of wav.scp that are commands

help_message="Usage: $0 [options] <data-dir> [<log-dir> [<mfcc-dir>]]
 e.g.: $0 --nj 4 data/train exp/make_mfcc/train mfcc
Options:
  --nj <n>                number of parallel jobs [$nj]
  --cmd <command>         how to run jobs [$cmd]
  --mfcc-config <file>    options of the features [$mfcc_config]
  --engine embedded|kaldi kaldi: by compute-mfcc-feats [by KALDI_ROOT]
  --allow-pipes true|false
                          run lines of wav.scp that are commands [$allow_pipes]"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

data=$1
logdir=${2:-$data/log}
mfccdir=${3:-$data/data}
name=$(basename "$data")

for f in "$data/wav.scp" "$data/utt2spk" "$mfcc_config"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file (stage 0 of a recipe makes the data)" >&2; exit 1; }
done
[[ $nj =~ ^[1-9][0-9]*$ ]] || { echo "$0: error: --nj must be a whole number above 0, got '$nj'" >&2; exit 1; }
pipes=()
[ "$allow_pipes" = false ] || pipes=(--allow-pipes)
utils/validate_data_dir.sh --no-text --no-feats ${pipes[@]+"${pipes[@]}"} "$data"
num_utts=$(wc -l <"$data/utt2spk")   # a part has at least one utterance
[ "$nj" -le "$num_utts" ] || nj=$num_utts
utils/split_data.sh --per-utt "$data" "$nj" >/dev/null
mkdir -p "$logdir" "$mfccdir"
rm -f "$data/feats.scp"   # it points into the archives that are now replaced

$cmd "JOB=1:$nj" "$logdir/make_mfcc_$name.JOB.log" \
  kaldi-uq compute-mfcc ${engine:+--engine "$engine"} --job JOB ${pipes[@]+"${pipes[@]}"} --mfcc-config "$mfcc_config" \
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
