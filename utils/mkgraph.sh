#!/usr/bin/env bash
# Compose the decoding graph HCLG.fst.
set -euo pipefail

transition_scale=1.0   # scale of the transition probabilities in the graph
self_loop_scale=0.1    # scale of the self-loops, as in Kaldi's GMM recipes
engine=                # embedded or kaldi; empty: by KALDI_ROOT

help_message="Usage: $0 [options] <lang-dir> <model-dir> <graph-dir>
 e.g.: $0 data/lang exp/mono exp/mono/graph
Options:
  --transition-scale <s>    [$transition_scale]
  --self-loop-scale <s>     [$self_loop_scale]
  --engine embedded|kaldi   [by KALDI_ROOT]"

echo "$0 $*" >&2
# shellcheck source=./parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/parse_options.sh"
if [ $# -ne 3 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=./recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/recipe_env.sh"

for f in "$1/G.fst" "$1/L_disambig.fst" "$2/final.mdl" "$2/tree"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; stage 0 makes the lang directory, stage 2 the model" >&2; exit 1; }
done
kaldi-uq make-graph ${engine:+--engine "$engine"} --transition-scale "$transition_scale" \
  --self-loop-scale "$self_loop_scale" "$1" "$2" "$3"

echo "$0: $3/HCLG.fst" >&2
