#!/usr/bin/env bash
# Attack a hybrid model at the waveform: wav/*.wav, wav.scp, text, target_text, results.jsonl.
#
# Usage: $0 [options] <data-dir> <lang-dir> <model-dir> \
#          <graph-dir> <attack-dir>
#  e.g.: $0 --eps 0.02 data/attack data/lang exp/dnn \
#          exp/dnn/graph exp/dnn/attack_pgd_eps0.02
# Finished batches stay when a job fails or is killed: the same command, with
# any --nj, makes the others.
set -euo pipefail

nj=1               # <n>: jobs that attack some batches each; they change no result
cmd=utils/run.pl   # <command>: how to run the jobs
eps=0.02           # <e>: largest change of a sample, full scale 1
eps_level=         # <l>: root mean square of the speech that eps is for; it is scaled for each utterance [eps is absolute]
attack_config=     # <file>: options of the attack, one --name=value a line
preset=            # <name>: options of an attack that the package knows: paper-pgd, decoder-margin, ...; an unknown name lists all
attack=            # <name>: name under which results are filed [<preset>, or pgd]
num_utts=0         # <n>: attack so many utterances, spread over the data; 0: all
target_text=       # <file>: table of targets: utt words... [random targets]
results=           # <file>: also record the summary in this results.json
attack_opts=       # <options>: further options of kaldi-uq nnet-attack: --num-steps, --step-size, ...
network=           # <file.py:name>: network of your own that <model-dir> holds weights of; runs this code
recogniser=        # <file.py:name>: recogniser of another sort, of <model-dir>; runs this code; <lang-dir> and <graph-dir> are - then
engine=            # embedded|kaldi [by KALDI_ROOT]
device=            # cpu|cuda [cuda if there is one]
seed=0             # <n>: seed of targets, starts and draws
transform_dir=     # <dir>: fMLLR transforms of <data-dir>'s speakers (trans.*), for a model trained with such: exp/tri3/decode_test
online_ivector_dir=  # <dir>: i-vectors of <data-dir> (ivector_online.scp), for a model trained with such
cmvn_from=auto     # auto|scp|waves: statistics of speakers: <data-dir>/cmvn.scp, or computed from the waveforms
allow_pipes=false  # true|false: run lines of wav.scp that are commands, as with KALDI_UQ_ALLOW_PIPES=1
resample=false     # true|false: resample audio of another rate than the model's; the log counts it
max_bad=0          # <n>: leave out up to so many utterances that cannot be used; <attack-dir>/bad_utterances names them

# shellcheck source=../../utils/script.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/script.sh"
[ $# -eq 5 ] || usage
# shellcheck source=../../utils/recipe_env.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/../../utils/recipe_env.sh"

data=$1
lang=$2
model=$3
graph=$4
dir=$5

if [ -z "$recogniser" ]; then
  need_files utils/mkgraph.sh "$graph/HCLG.fst"
  need_files "$(dirname -- "$0")/train.sh" "$model/final.safetensors"
  need_files utils/prepare_lang.sh "$lang/L.fst"
fi
need_files "the data preparation" "$data/wav.scp" "$data/text"
check_nj
need_files "" ${target_text:+"$target_text"} ${attack_config:+"$attack_config"}
attack=${attack:-${preset:-pgd}}
hold_dir "$dir"
code_opts=(${network:+--network "$network"} ${recogniser:+--recogniser "$recogniser"})
read -ra extra <<<"$attack_opts"
[ "$allow_pipes" = false ] || extra+=(--allow-pipes)
[ "$resample" = false ] || extra+=(--resample)
[ -z "$transform_dir" ] || extra+=(--transform-dir "$transform_dir")
[ -z "$online_ivector_dir" ] || extra+=(--online-ivector-dir "$online_ivector_dir")
command=(kaldi-uq nnet-attack --eps "$eps" ${eps_level:+--eps-level "$eps_level"} --attack "$attack" --num-utts "$num_utts"
  --cmvn-from "$cmvn_from" --max-bad "$max_bad" --lang-dir "$lang" ${preset:+--preset "$preset"} ${attack_config:+--config "$attack_config"}
  ${target_text:+--target-text "$target_text"} "${code_opts[@]}" "${model_opts[@]}" "${extra[@]}")
if [ "$nj" -gt 1 ]; then
  keep_log "$dir"/log/attack.[0-9]*.log
  run_jobs JOB=1:"$nj" "$dir/log/attack.JOB.log" "${command[@]}" --shard "JOB/$nj" "$data" "$model" "$graph" "$dir"
fi
# what the jobs made, and what is left to make, is decoded and scored
run_jobs "$dir/log/attack.log" "${command[@]}" ${results:+--results "$results"} "$data" "$model" "$graph" "$dir"

tell_bad "$dir/bad_utterances"
grep -a '^WARNING (kaldi_uq.cli.nnet_attack)' "$dir/log/attack.log" >&2 || true
echo "$0: $dir: $(grep -a 'original accuracy' "$dir/log/attack.log" | tail -n 1)" >&2
tell_page "$results"
