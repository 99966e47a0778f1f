#!/usr/bin/env bash
# Attack a hybrid model at the waveform: wav/*.wav, wav.scp, text, target_text, results.jsonl.
set -euo pipefail

cmd=utils/run.pl   # where the job runs
eps=0.02           # largest change of a sample, full scale 1
attack_config=     # file with options of the attack, one --name=value a line
attack=pgd         # name under which results are filed
num_utts=0         # attack so many utterances, spread over the data; 0: all
target_text=       # table utt -> target words; empty: random targets
results=           # results.json to record the summary in; empty: none
attack_opts=       # further options of kaldi-uq nnet-attack: --num-steps, --step-size, ...
engine=            # embedded or kaldi; empty: by KALDI_ROOT
device=            # cpu or cuda; empty: cuda if there is one
seed=0             # of targets, starts and draws
cmvn_from=auto     # statistics of the speakers: scp, waves, or auto
allow_pipes=false  # run lines of wav.scp that are commands
network=           # FILE.py:NAME that builds the network of <model-dir>; empty: it is one of kaldi_uq
recogniser=        # FILE.py:NAME that makes a recogniser of <model-dir>, which is no hybrid model; <graph-dir> is - then

help_message="Usage: $0 [options] <data-dir> <lang-dir> <model-dir> \\
         <graph-dir> <attack-dir>
 e.g.: $0 --eps 0.02 data/attack data/lang exp/dnn \\
         exp/dnn/graph exp/dnn/attack_pgd_eps0.02
Options:
  --eps <e>                  largest change of a sample, full scale 1 [$eps]
  --attack-config <file>     options of the attack, one --name=value a line
  --attack <name>            name under which results are filed [$attack]
  --num-utts <n>             attack so many utterances; 0: all [$num_utts]
  --target-text <file>       table of targets: utt words... [random targets]
  --attack-opts <options>    further options of kaldi-uq nnet-attack
  --results <file>           also record the summary in this results.json
  --engine embedded|kaldi    [by KALDI_ROOT]
  --device cpu|cuda          [cuda if there is one]
  --seed <n>                 [$seed]
  --cmvn-from auto|scp|waves statistics of speakers: <data-dir>/cmvn.scp, or
                             computed from the waveforms [$cmvn_from]
  --allow-pipes true|false   run lines of wav.scp that are commands
                             [$allow_pipes]
  --network <file.py:name>   builds the network of <model-dir>, which is code
                             of your own
  --recogniser <file.py:name>
                             makes a recogniser of <model-dir> that is no hybrid
                             model; <lang-dir> and <graph-dir> are - then
  --cmd <command>            how to run the job [$cmd]"

echo "$0 $*" >&2
# shellcheck source=../../utils/parse_options.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/parse_options.sh"
if [ $# -ne 5 ]; then
  echo "$help_message" >&2
  exit 1
fi
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

data=$1
lang=$2
model=$3
graph=$4
dir=$5

[ -n "$recogniser" ] || [ -f "$graph/HCLG.fst" ] || { echo "$0: error: $graph/HCLG.fst: no such file; utils/mkgraph.sh makes it" >&2; exit 1; }
[ -n "$recogniser" ] || [ -f "$model/final.safetensors" ] || { echo "$0: error: $model/final.safetensors: no such file; steps/uq/train.sh makes it (stage 4)" >&2; exit 1; }
[ -n "$recogniser" ] || [ -f "$lang/L.fst" ] || { echo "$0: error: $lang/L.fst: no such file" >&2; exit 1; }
for f in "$data/wav.scp" "$data/text" ${target_text:+"$target_text"} ${attack_config:+"$attack_config"}; do
  [ -f "$f" ] || { echo "$0: error: $f: no such file" >&2; exit 1; }
done
mkdir -p "$dir/log"
read -ra extra <<<"$attack_opts"
[ "$allow_pipes" = false ] || extra+=(--allow-pipes)
$cmd "$dir/log/attack.log" \
  kaldi-uq nnet-attack ${network:+--network "$network"} ${recogniser:+--recogniser "$recogniser"} \
  --eps "$eps" --attack "$attack" --num-utts "$num_utts" --seed "$seed" --cmvn-from "$cmvn_from" --lang-dir "$lang" \
  ${attack_config:+--config "$attack_config"} ${target_text:+--target-text "$target_text"} ${results:+--results "$results"} \
  ${engine:+--engine "$engine"} ${device:+--device "$device"} ${extra[@]+"${extra[@]}"} \
  "$data" "$model" "$graph" "$dir"

echo "$0: $dir: $(grep -a 'original accuracy' "$dir/log/attack.log" | tail -n 1)" >&2
