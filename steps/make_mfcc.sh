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
allow_pipes=false            # true|false: run lines of wav.scp that are commands, as with KALDI_UQ_ALLOW_PIPES=1
resample=false               # true|false: resample audio of another rate than <mfcc-config>'s; the log counts it
max_bad=0                    # <n>: leave out up to so many utterances that cannot be used, in one job; <data-dir>/bad_utterances names them

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
audio=("${pipes[@]}")
[ "$resample" = false ] || audio+=(--resample)
[ "$max_bad" != 0 ] || utils/validate_data_dir.sh --no-text --no-feats "${pipes[@]}" "$data"
hold_dir "$data" .   # whatever directory the logs are in
if [ "$max_bad" = 0 ]; then
  split_for_jobs --per-utt "$data"
  parts=$data/split${nj}utt/JOB
else # tables with bad utterances cannot be split, and no job could count those of the others
  nj=1
  parts=$data
fi
mkdir -p "$logdir" "$mfccdir"
rm -f "$data/bad_utterances" "$data/feats.scp"   # it points into the archives that are now replaced

run_jobs "JOB=1:$nj" "$logdir/make_mfcc_$name.JOB.log" \
  kaldi-uq compute-mfcc "${engine_opts[@]}" --job JOB "${audio[@]}" --max-bad "$max_bad" --mfcc-config "$mfcc_config" \
  --num-frames "$logdir/utt2num_frames.JOB" \
  "$parts" "$mfccdir/raw_mfcc_$name.JOB.ark" "$mfccdir/raw_mfcc_$name.JOB.scp"

join_parts() {
  local n
  for n in $(seq "$nj"); do cat "$1.$n${3:-}"; done | LC_ALL=C sort >"$2.tmp"
  mv "$2.tmp" "$2"
}
join_parts "$mfccdir/raw_mfcc_$name" "$data/feats.scp" .scp
join_parts "$logdir/utt2num_frames" "$data/utt2num_frames"
kaldi-uq frame-shift "$mfcc_config" >"$data/frame_shift.tmp"
mv "$data/frame_shift.tmp" "$data/frame_shift"

if [ "$max_bad" != 0 ] && [ -f "$mfccdir/raw_mfcc_$name.1.bad_utterances" ]; then
  mv "$mfccdir/raw_mfcc_$name.1.bad_utterances" "$data/bad_utterances"
  tell_bad "$data/bad_utterances"
  echo "$0: drop them with utils/fix_data_dir.sh $data before the next step" >&2
fi
echo "$0: $data: features of $(wc -l <"$data/feats.scp") utterances" >&2
