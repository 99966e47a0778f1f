#!/usr/bin/env bash
# Compose the decoding graph HCLG.fst.
#
# Usage: $0 [options] <lang-dir> <model-dir> <graph-dir>
#  e.g.: $0 data/lang exp/mono exp/mono/graph
set -euo pipefail

transition_scale=1.0   # <s>: scale of the transition probabilities in the graph
self_loop_scale=0.1    # <s>: scale of the self-loops, as in Kaldi's GMM recipes
engine=                # embedded|kaldi [by KALDI_ROOT]

# shellcheck source=./script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/script.sh"
[ $# -eq 3 ] || usage
# shellcheck source=./recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/recipe_env.sh"

need_files utils/prepare_lang.sh "$1/G.fst" "$1/L_disambig.fst"
need_files "the training of the model" "$2/final.mdl" "$2/tree"
kaldi-uq make-graph "${engine_opts[@]}" --transition-scale "$transition_scale" --self-loop-scale "$self_loop_scale" "$1" "$2" "$3"

echo "$0: $3/HCLG.fst" >&2
