#!/usr/bin/env bash
# Train a hybrid acoustic model on the alignments of any recipe, then build its decoding graph.
set -euo pipefail

cmd=utils/run.pl             # where the job runs
model=                       # dnn, ensemble, dropout or bnn; empty: dnn, unless there is a network
network=                     # network of your own: the function NAME of FILE.py, as FILE.py:NAME
mfcc_config=conf/mfcc.conf   # features of the model: the recipe's
fbank_config=                # filter banks instead: conf/fbank.conf
frontend=kaldi               # kaldi, or torchaudio for the paper's front end
opts_dir=                    # directory with the recipe's cmvn_opts, delta_opts, splice_opts; empty: <ali-dir>; or none
cmvn_from=auto               # statistics of the speakers: scp, waves, or auto
allow_pipes=false            # run lines of wav.scp that are commands
train_config=                # file with options of kaldi-uq nnet-train, one --name=value a line
train_opts=                  # further options of kaldi-uq nnet-train
engine=                      # embedded or kaldi; empty: by KALDI_ROOT
device=                      # cpu or cuda; empty: cuda if there is one
seed=0                       # seed of the initial weights, the order of the frames and the draws

help_message="Usage: $0 [options] <data-dir> <lang-dir> <ali-dir> <exp-dir>
 e.g.: $0 --model ensemble data/train data/lang exp/mono_ali \\
         exp/ensemble
       $0 --network local/tdnn.py:tdnn data/train data/lang exp/mono_ali \\
         exp/tdnn
Options:
  --model dnn|ensemble|dropout|bnn   [dnn]
  --network <file.py:name>           network of your own instead: name(input_dim,
                                     num_pdfs) returns a torch module; trained
                                     on whole utterances; runs this code
  --mfcc-config <file>               [$mfcc_config]
  --fbank-config <file>              filter banks instead of MFCC
  --frontend kaldi|torchaudio        [$frontend]
  --opts-dir <dir>|none              with the recipe's cmvn_opts, delta_opts
                                     and splice_opts [<ali-dir>]
  --cmvn-from auto|scp|waves         statistics of speakers, where cmvn_opts
                                     (or --cmvn speaker) asks for them:
                                     <data-dir>/cmvn.scp, or computed [$cmvn_from]
  --allow-pipes true|false           run lines of wav.scp that are commands
                                     [$allow_pipes]
  --train-config <file>              options, one --name=value a line
  --train-opts <options>             further options of kaldi-uq nnet-train
  --engine embedded|kaldi            [by KALDI_ROOT]
  --device cpu|cuda                  [cuda if there is one]
  --seed <n>                         [$seed]
  --cmd <command>                    how to run the job [$cmd]
'kaldi-uq nnet-train --help' lists the options for --train-config and
--train-opts."

echo "$0 $*" >&2
# shellcheck source=../../utils/parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
if [ $# -ne 4 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

data=$1
lang=$2
ali=$3
dir=$4

[ -n "$model$network" ] || model=dnn
features=(--mfcc-config "$mfcc_config" --frontend "$frontend")
[ -z "$fbank_config" ] || features=(--fbank-config "$fbank_config")
for f in "$data/wav.scp" "$data/text" "$lang/L.fst" "${features[1]}" ${train_config:+"$train_config"}; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file (stage 0 of a recipe makes data and lang)" >&2; exit 1; }
done
for f in "$ali/final.mdl" "$ali/tree" "$ali/ali.1.gz" "$ali/num_jobs"; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file; steps/align_si.sh makes it (stage 2)" >&2; exit 1; }
done
for n in $(seq "$(cat "$ali/num_jobs")"); do
  [ -f "$ali/ali.$n.gz" ] || { echo "$0: error: $ali/ali.$n.gz: no such file; align again" >&2; exit 1; }
done
[ "$allow_pipes" = false ] || features+=(--allow-pipes)
mkdir -p "$dir/log"
read -ra extra <<<"$train_opts"
$cmd "$dir/log/train.log" \
  kaldi-uq nnet-train ${model:+--model "$model"} ${network:+--network "$network"} "${features[@]}" --cmvn-from "$cmvn_from" --seed "$seed" \
  ${opts_dir:+--opts-dir "$opts_dir"} ${train_config:+--config "$train_config"} ${engine:+--engine "$engine"} ${device:+--device "$device"} \
  ${extra[@]+"${extra[@]}"} "$data" "$lang" "$ali" "$dir"
if [ ! -f "$lang/G.fst" ]; then
  echo "$0: $dir/final.safetensors; $lang has no G.fst: take the recipe's own graph for decoding" >&2
  exit 0
fi
"$(dirname -- "${BASH_SOURCE[0]}")/../../utils/mkgraph.sh" ${engine:+--engine "$engine"} "$lang" "$dir" "$dir/graph" 2>"$dir/log/mkgraph.log" ||
  { tail -n 3 "$dir/log/mkgraph.log" >&2; exit 1; }

echo "$0: $dir/final.safetensors and $dir/graph/HCLG.fst" >&2
