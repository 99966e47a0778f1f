#!/usr/bin/env bash
# Train a monophone system on speaker-normalised MFCC with derivatives: final.mdl, tree, ali.1.gz.
set -euo pipefail

nj=2               # parallel jobs of the kaldi engine; the embedded one trains in one process
cmd=utils/run.pl   # where the jobs run
engine=            # embedded or kaldi; empty: by KALDI_ROOT
num_iters=20       # passes over the data
totgauss=400       # Gaussians at the end
mono_config=       # file with further options, one --name=value a line
seed=0             # of the equal alignments and of the splitting of Gaussians

help_message="Usage: $0 [options] <data-dir> <lang-dir> <exp-dir>
 e.g.: $0 data/train data/lang exp/mono
Options:
  --engine embedded|kaldi   [by KALDI_ROOT]
  --num-iters <n>           passes over the data [$num_iters]
  --totgauss <n>            number of Gaussians at the end [$totgauss]
  --seed <n>                [$seed]
  --cmd <command>           how to run the jobs [$cmd]
  --nj <n>                  parallel jobs of the kaldi engine [$nj]
  --mono-config <file>      further options; see kaldi-uq train-mono --help"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

data=$1
lang=$2
dir=$3

for f in "$data/feats.scp" "$data/cmvn.scp"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; stage 1 of the recipe makes it" >&2; exit 1; }
done
for f in "$data/text" "$lang/L.fst" "$lang/topo"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; stage 0 of the recipe makes it" >&2; exit 1; }
done
mkdir -p "$dir/log"
driver=$cmd
# on Kaldi's programs it only waits for the jobs that it gives to $cmd
[ "${engine:-${KALDI_ROOT:+kaldi}}" != kaldi ] || driver=utils/run.pl
$driver "$dir/log/train.log" \
  kaldi-uq train-mono ${engine:+--engine "$engine"} --cmd "$cmd" --nj "$nj" --num-iters "$num_iters" --totgauss "$totgauss" --seed "$seed" \
  ${mono_config:+--config "$mono_config"} "$data" "$lang" "$dir"
cp "$lang/phones.txt" "$dir/"

echo "$0: $dir/final.mdl trained on $(wc -l <"$data/text") utterances" >&2
