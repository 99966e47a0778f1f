#!/usr/bin/env bash
# Train a monophone system on speaker-normalised MFCC with derivatives: final.mdl, tree, ali.1.gz.
#
# Usage: $0 [options] <data-dir> <lang-dir> <exp-dir>
#  e.g.: $0 data/train data/lang exp/mono
set -euo pipefail

nj=2               # <n>: parallel jobs of the kaldi engine; the embedded one aligns with a process a core (OMP_NUM_THREADS)
cmd=utils/run.pl   # <command>: how to run the jobs
engine=            # embedded|kaldi [by KALDI_ROOT]
num_iters=20       # <n>: passes over the data
totgauss=400       # <n>: number of Gaussians at the end
mono_config=       # <file>: further options, one --name=value a line; see kaldi-uq train-mono --help
seed=0             # <n>: seed of the equal alignments and of the splitting of Gaussians

. utils/script.sh
[ $# -eq 3 ] || usage
. ./path.sh

data=$1
lang=$2
dir=$3

need_feats "$data"
need_files "the data preparation" "$data/text"
need_files utils/prepare_lang.sh "$lang/L.fst" "$lang/topo"
hold_dir "$dir"
driver=$(training_driver) run_jobs "$dir/log/train.log" \
  kaldi-uq train-mono "${engine_opts[@]}" --cmd "$cmd" --nj "$nj" --num-iters "$num_iters" --totgauss "$totgauss" --seed "$seed" \
  ${mono_config:+--config "$mono_config"} "$data" "$lang" "$dir"
cp "$lang/phones.txt" "$dir/"

echo "$0: $dir/final.mdl trained on $(aligned_in "$dir/log/train.log")" >&2
