#!/usr/bin/env bash
# Align a data directory with a GMM system: ali.*.gz, with the model beside them.
#
# Usage: $0 [options] <data-dir> <lang-dir> <src-dir> <align-dir>
#  e.g.: $0 --nj 4 data/train data/lang exp/mono exp/mono_ali
set -euo pipefail

nj=2               # <n>: parallel jobs; they never change an alignment
cmd=utils/run.pl   # <command>: how to run the jobs
engine=            # embedded|kaldi [by KALDI_ROOT]
beam=10            # <b>: first beam, as in Kaldi
retry_beam=40      # <b>: second beam, where the first finds no path

. utils/script.sh
[ $# -eq 4 ] || usage
. ./path.sh

data=$1
lang=$2
srcdir=$3
dir=$4

need_files steps/train_mono.sh "$srcdir/final.mdl" "$srcdir/tree"
need_feats "$data"
need_files "the data preparation" "$data/text"
need_files utils/prepare_lang.sh "$lang/L.fst"
check_nj
hold_dir "$dir"
split_for_jobs "$data"
keep_log "$dir"/log/align.*.log
rm -f "$dir"/ali.*.gz "$dir/num_jobs" # num_jobs comes last: with it the alignments are whole
cp "$srcdir/final.mdl" "$srcdir/tree" "$lang/phones.txt" "$dir/"

run_jobs "JOB=1:$nj" "$dir/log/align.JOB.log" \
  kaldi-uq align-gmm "${engine_opts[@]}" --job JOB --align-beam "$beam" --retry-beam "$retry_beam" \
  "$data/split$nj/JOB" "$lang" "$srcdir" "$dir/ali.JOB.gz"
echo "$nj" >"$dir/num_jobs"

echo "$0: $dir: alignments of $(aligned_in "$dir"/log/align.*.log)" >&2
