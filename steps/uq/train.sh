#!/usr/bin/env bash
# Train a hybrid acoustic model on the alignments of any recipe, then build its decoding graph.
#
# Usage: $0 [options] <data-dir> <lang-dir> <ali-dir> <exp-dir>
#  e.g.: $0 --model ensemble data/train data/lang exp/mono_ali \
#          exp/ensemble
#        $0 --network local/tdnn.py:tdnn data/train data/lang \
#          exp/mono_ali exp/tdnn
# 'kaldi-uq nnet-train --help' lists the options for --train-config and
# --train-opts. With --num-processes <n> that many processes of one machine, each
# on a GPU of its own if there are any, share every minibatch (torchrun). The
# model is that of one process, but for rounding and random draws; a killed
# training goes on with any number of them.
set -euo pipefail

num_processes=1              # <n>: processes that share the training; <command> is told --num-threads <n>, with --device cuda also --gpu <n>
cmd=utils/run.pl             # <command>: how to run the job
model=                       # <kind>: dnn, ensemble, dropout or bnn [dnn, unless there is a network]
network=                     # <file.py:name>: network of your own instead: name(input_dim, num_pdfs) returns a torch module; runs this code
mfcc_config=conf/mfcc.conf   # <file>: features of the model: the recipe's
fbank_config=                # <file>: filter banks instead of MFCC
frontend=kaldi               # kaldi|torchaudio: torchaudio is the paper's front end
opts_dir=                    # <dir>|none: with the recipe's cmvn_opts, delta_opts, splice_opts, final.mat and trans.* [<ali-dir>]
transform_dir=               # <dir>|none: with fMLLR transforms of <data-dir>'s speakers (trans.*) [<opts-dir>, if it has some]
online_ivector_dir=          # <dir>: i-vectors of <data-dir> (ivector_online.scp, ivector_period), appended to the network's input
cmvn_from=auto               # auto|scp|waves: statistics of speakers: <data-dir>/cmvn.scp, or computed from the waveforms
allow_pipes=false            # true|false: run lines of wav.scp that are commands, as with KALDI_UQ_ALLOW_PIPES=1
resample=false               # true|false: resample audio of another rate than the model's; the log counts it
max_bad=0                    # <n>: leave out up to so many utterances that cannot be used; <exp-dir>/bad_utterances names them
train_config=                # <file>: options, one --name=value a line
train_opts=                  # <options>: further options of kaldi-uq nnet-train
graph_dir=                   # <dir>: graph of <lang-dir> and the model of <ali-dir>, exp/tri/graph; <exp-dir>/graph becomes a link to it, unless a
                             # Viterbi epoch has changed the HMM [compose one]
graph_opts=                  # <options>: further options of utils/mkgraph.sh: --self-loop-scale 1.0 for the HMM of a chain model
engine=                      # embedded|kaldi [by KALDI_ROOT]
device=                      # cpu|cuda [cuda if there is one]
seed=0                       # <n>: seed of the initial weights, the order of the frames and the draws

# shellcheck source=../../utils/script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/script.sh"
[ $# -eq 4 ] || usage
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

data=$1
lang=$2
ali=$3
dir=$4

[ -n "$model$network" ] || model=dnn
features=(--mfcc-config "$mfcc_config" --frontend "$frontend")
[ -z "$fbank_config" ] || features=(--fbank-config "$fbank_config")
need_files "the data preparation" "$data/wav.scp" "$data/text"
need_files utils/prepare_lang.sh "$lang/L.fst"
need_files "" "${features[1]}" ${train_config:+"$train_config"}
need_files steps/align_si.sh "$ali/final.mdl" "$ali/tree" "$ali/ali.1.gz" "$ali/num_jobs"
for n in $(seq "$(cat "$ali/num_jobs")"); do need_files "the alignment of $ali/num_jobs jobs" "$ali/ali.$n.gz"; done
[ "$allow_pipes" = false ] || features+=(--allow-pipes)
[ "$resample" = false ] || features+=(--resample)
[ -z "$graph_dir" ] || need_files utils/mkgraph.sh "$graph_dir/HCLG.fst"
[ -z "$graph_dir" ] || [ -z "$graph_opts" ] || die "--graph-opts is for a graph that is composed here, not for that of --graph-dir"
[[ $num_processes =~ ^[1-9][0-9]*$ ]] || die "--num-processes must be a whole number above 0, got '$num_processes'"
launcher=()
if [ "$num_processes" -gt 1 ]; then
  launcher=(python3 "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/torchrun.py" --standalone --local-addr localhost
    --nproc-per-node "$num_processes" --no-python)
  cmd+=" --num-threads $num_processes"
  [[ $device != cuda ]] || cmd+=" --gpu $num_processes"
fi
hold_dir "$dir"
read -ra extra <<<"$train_opts"
read -ra graph <<<"$graph_opts"
run_jobs "$dir/log/train.log" \
  "${launcher[@]}" kaldi-uq nnet-train ${model:+--model "$model"} ${network:+--network "$network"} "${features[@]}" --cmvn-from "$cmvn_from" --max-bad "$max_bad" \
  ${opts_dir:+--opts-dir "$opts_dir"} ${transform_dir:+--transform-dir "$transform_dir"} ${online_ivector_dir:+--online-ivector-dir "$online_ivector_dir"} ${train_config:+--config "$train_config"} "${model_opts[@]}" "${extra[@]}" "$data" "$lang" "$ali" "$dir"
tell_bad "$dir/bad_utterances"
grep -a '^WARNING (kaldi_uq.training.' "$dir/log/train.log" >&2 || true
if [ -n "$graph_dir" ] && cmp -s "$ali/final.mdl" "$dir/final.mdl" && cmp -s "$ali/tree" "$dir/tree"; then
  [ -L "$dir/graph" ] || rm -rf "$dir/graph"
  ln -sfnr "$graph_dir" "$dir/graph"
  echo "$0: $dir/final.safetensors; $dir/graph is $graph_dir" >&2
  exit 0
fi
if [ ! -f "$lang/G.fst" ]; then
  echo "$0: $dir/final.safetensors; $lang has no G.fst: take the recipe's own graph for decoding" >&2
  exit 0
fi
[ ! -L "$dir/graph" ] || rm "$dir/graph"
keep_log "$dir/log/mkgraph.log"
"$(dirname -- "${BASH_SOURCE[0]}")/../../utils/mkgraph.sh" "${engine_opts[@]}" "${graph[@]}" "$lang" "$dir" "$dir/graph" 2>"$dir/log/mkgraph.log" ||
  { tail -n 3 "$dir/log/mkgraph.log" >&2; exit 1; }

echo "$0: $dir/final.safetensors and $dir/graph/HCLG.fst" >&2
