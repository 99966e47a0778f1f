#!/usr/bin/env bash
# Train a triphone system on speaker-normalised MFCC with derivatives, from alignments: final.mdl, tree, ali.1.gz.
#
# Usage: $0 [options] <num-leaves> <tot-gauss> <data-dir> \
#          <lang-dir> <ali-dir> <exp-dir>
#  e.g.: $0 2000 10000 data/train data/lang \
#          exp/mono_ali exp/tri
set -euo pipefail

nj=2               # <n>: parallel jobs of the kaldi engine; the embedded one aligns with a process a core (OMP_NUM_THREADS)
cmd=utils/run.pl   # <command>: how to run the jobs
engine=            # embedded|kaldi [by KALDI_ROOT]
num_iters=35       # <n>: passes over the data
deltas_config=     # <file>: further options, one --name=value a line; see kaldi-uq train-deltas --help
seed=0             # <n>: seed of the questions and of the splitting of Gaussians

. utils/script.sh
[ $# -eq 6 ] || usage
. ./path.sh

num_leaves=$1
totgauss=$2
data=$3
lang=$4
ali=$5
dir=$6

for n in "$num_leaves" "$totgauss"; do
  [[ $n =~ ^[1-9][0-9]*$ ]] || die "<num-leaves> and <tot-gauss> are whole numbers above 0, got '$n'"
done
need_feats "$data"
need_files "the data preparation" "$data/text"
need_files utils/prepare_lang.sh "$lang/L.fst" "$lang/topo" "$lang/phones/roots.int" "$lang/phones/sets.int"
need_files steps/align_si.sh "$ali/final.mdl" "$ali/ali.1.gz"
hold_dir "$dir"
driver=$(training_driver) run_jobs "$dir/log/train.log" \
  kaldi-uq train-deltas "${engine_opts[@]}" --cmd "$cmd" --nj "$nj" --num-leaves "$num_leaves" --totgauss "$totgauss" \
  --num-iters "$num_iters" --seed "$seed" ${deltas_config:+--config "$deltas_config"} "$data" "$lang" "$ali" "$dir"
cp "$lang/phones.txt" "$dir/"

echo "$0: $dir/final.mdl trained on $(aligned_in "$dir/log/train.log")" >&2
