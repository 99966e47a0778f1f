#!/usr/bin/env bash
# Align a data directory with a GMM system: ali.*.gz, with the model beside them.
set -euo pipefail

nj=2               # parallel jobs; they never change an alignment
cmd=utils/run.pl   # where the jobs run
engine=            # embedded or kaldi; empty: by KALDI_ROOT
beam=10            # first beam, as in Kaldi
retry_beam=40      # second beam, where the first finds no path

help_message="Usage: $0 [options] <data-dir> <lang-dir> <src-dir> <align-dir>
 e.g.: $0 --nj 4 data/train data/lang exp/mono exp/mono_ali
Options:
  --nj <n>                  number of parallel jobs [$nj]
  --engine embedded|kaldi   [by KALDI_ROOT]
  --beam <b>                [$beam]
  --retry-beam <b>          [$retry_beam]
  --cmd <command>           how to run jobs [$cmd]"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

data=$1
lang=$2
srcdir=$3
dir=$4

for f in "$srcdir/final.mdl" "$srcdir/tree"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; steps/train_mono.sh makes it (stage 2)" >&2; exit 1; }
done
for f in "$data/feats.scp" "$data/cmvn.scp"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; stage 1 of the recipe makes it" >&2; exit 1; }
done
for f in "$data/text" "$lang/L.fst"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; stage 0 of the recipe makes it" >&2; exit 1; }
done
[[ $nj =~ ^[1-9][0-9]*$ ]] || { echo "$0: error: --nj must be a whole number above 0, got '$nj'" >&2; exit 1; }
num_spk=$(wc -l <"$data/spk2utt")   # a part has at least one speaker
[ "$nj" -le "$num_spk" ] || nj=$num_spk
utils/split_data.sh "$data" "$nj" >/dev/null
mkdir -p "$dir/log"
rm -f "$dir"/ali.*.gz "$dir/num_jobs"   # num_jobs comes last: with it the alignments are whole
cp "$srcdir/final.mdl" "$srcdir/tree" "$lang/phones.txt" "$dir/"

$cmd "JOB=1:$nj" "$dir/log/align.JOB.log" \
  kaldi-uq align-gmm ${engine:+--engine "$engine"} --job JOB --align-beam "$beam" --retry-beam "$retry_beam" \
  "$data/split$nj/JOB" "$lang" "$srcdir" "$dir/ali.JOB.gz"
echo "$nj" >"$dir/num_jobs"

echo "$0: $dir: alignments of $(wc -l <"$data/text") utterances" >&2
