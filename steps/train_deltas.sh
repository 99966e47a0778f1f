#!/usr/bin/env bash
# Train a triphone system on speaker-normalised MFCC with derivatives, from alignments: final.mdl, tree, ali.1.gz.
set -euo pipefail

nj=2               # parallel jobs of the kaldi engine; the embedded one trains in one process
cmd=utils/run.pl   # where the jobs run
engine=            # embedded or kaldi; empty: by KALDI_ROOT
num_iters=35       # passes over the data
deltas_config=     # file with further options, one --name=value a line
seed=0             # of the questions and of the splitting of Gaussians

help_message="Usage: $0 [options] <num-leaves> <tot-gauss> <data-dir> \\
         <lang-dir> <ali-dir> <exp-dir>
 e.g.: $0 2000 10000 data/train data/lang \\
         exp/mono_ali exp/tri
Options:
  --engine embedded|kaldi   [by KALDI_ROOT]
  --num-iters <n>           passes over the data [$num_iters]
  --seed <n>                [$seed]
  --cmd <command>           how to run the jobs [$cmd]
  --nj <n>                  parallel jobs of the kaldi engine [$nj]
  --deltas-config <file>    further options; see kaldi-uq train-deltas --help"

echo "$0 $*" >&2
. utils/parse_options.sh
if [ $# -ne 6 ]; then
  echo "$help_message" >&2
  exit 1
fi
. ./path.sh

num_leaves=$1
totgauss=$2
data=$3
lang=$4
ali=$5
dir=$6

for n in "$num_leaves" "$totgauss"; do
  [[ $n =~ ^[1-9][0-9]*$ ]] || { echo "$0: error: <num-leaves> and <tot-gauss> are whole numbers above 0, got '$n'" >&2; exit 1; }
done
for f in "$data/feats.scp" "$data/cmvn.scp"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; steps/make_mfcc.sh and steps/compute_cmvn_stats.sh make it" >&2; exit 1; }
done
for f in "$data/text" "$lang/L.fst" "$lang/topo" "$lang/phones/roots.int" "$lang/phones/sets.int"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; utils/prepare_lang.sh makes the lang directory" >&2; exit 1; }
done
for f in "$ali/final.mdl" "$ali/ali.1.gz"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; steps/align_si.sh makes it" >&2; exit 1; }
done
mkdir -p "$dir/log"
driver=$cmd
# on Kaldi's programs it only waits for the jobs that it gives to $cmd
[ "${engine:-${KALDI_ROOT:+kaldi}}" != kaldi ] || driver=utils/run.pl
$driver "$dir/log/train.log" \
  kaldi-uq train-deltas ${engine:+--engine "$engine"} --cmd "$cmd" --nj "$nj" --num-leaves "$num_leaves" --totgauss "$totgauss" \
  --num-iters "$num_iters" --seed "$seed" ${deltas_config:+--config "$deltas_config"} "$data" "$lang" "$ali" "$dir"
cp "$lang/phones.txt" "$dir/"

echo "$0: $dir/final.mdl trained on $(wc -l <"$data/text") utterances" >&2
