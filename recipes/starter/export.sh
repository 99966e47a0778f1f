#!/usr/bin/env bash
# Put what a model needs to listen, to be attacked and to judge into one directory, and nothing else.
#
# Usage: $0 <model-dir> <lang-dir> <out-dir>
#  e.g.: $0 exp/dnn data/lang exp/digits
# What else is in <out-dir>, such as a model card, stays.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/utils/script.sh"
[ $# -eq 3 ] || usage
model=$1
lang=$2
out=$3
need_files "steps/uq/train.sh" "$model/final.safetensors" "$model/graph/HCLG.fst"
need_files "kaldi-uq fit-detector" "$model/detector/all-joint.json"

mkdir -p "$out/graph" "$out/lang/phones" "$out/detector"
cp "$model/"{final.safetensors,final.mdl,tree,.sha256} "$out"
cp "$model/graph/"{HCLG.fst,words.txt,.sha256} "$out/graph"
cp "$lang/"{L.fst,words.txt,phones.txt,topo,oov.txt} "$out/lang"
cp "$lang/phones/"{disambig,align_lexicon,silence}.int "$out/lang/phones"
# of the detectors those that are small: a density keeps every utterance that it was fitted on
cp "$model/detector/"{all-joint,all-mahalanobis,max_predictive_entropy,mean_predictive_entropy,frame_quantiles}.json "$out/detector"
du -sb "$out" | sed "s|^|$0: bytes: |"
