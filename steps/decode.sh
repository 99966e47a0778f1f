#!/usr/bin/env bash
# Decode a data directory with a GMM system and score it: hypotheses, wer, lat.*.gz, and with --score-lattices the
# word error rate of each language model weight: wer_<lmwt>_<penalty>, scoring_kaldi/best_wer.
#
# Usage: $0 [options] <graph-dir> <data-dir> <decode-dir>
#  e.g.: $0 --nj 4 exp/mono/graph data/test exp/mono/decode_test
# The model is that of the directory above <decode-dir>.
set -euo pipefail

nj=2               # <n>: parallel jobs; they never change a word
cmd=utils/run.pl   # <command>: how to run the jobs
engine=            # embedded|kaldi [by KALDI_ROOT]
acwt=0.1           # <scale>: acoustic scale
beam=13            # <b>: decoding beam
max_active=7000    # <n>: tokens a frame
lattices=true      # true|false: write lat.JOB.gz; the embedded engine takes some 0.1 s for a second of speech more
lattice_beam=6     # <b>: paths up to so much worse than the best are in a lattice
score_lattices=false # true|false: score them as Kaldi's score.sh does
min_lmwt=7         # <n>: smallest language model weight of --score-lattices
max_lmwt=17        # <n>: largest one
word_ins_penalty=0.0,0.5,1.0 # <p,...>: word insertion penalties of --score-lattices

. utils/script.sh
[ $# -eq 3 ] || usage
. ./path.sh

graph=$1
data=$2
dir=$3
srcdir=$(dirname "$dir")

need_files steps/train_mono.sh "$srcdir/final.mdl"
need_files utils/mkgraph.sh "$graph/HCLG.fst"
need_feats "$data"
check_nj
case $lattices$score_lattices in
  truetrue | truefalse | falsefalse) ;;
  falsetrue) die "--score-lattices true needs --lattices true" ;;
  *) die "--lattices $lattices, --score-lattices $score_lattices: expected true or false" ;;
esac
lattice_opts=()
[ "$lattices" = false ] || lattice_opts=(--lattices)
hold_dir "$dir"
split_for_jobs "$data"
rm -f "$dir"/hypotheses.* "$dir"/lat.*.gz "$dir/num_jobs" "$dir/wer" "$dir/wer.json" "$dir"/wer_*_*

run_jobs "JOB=1:$nj" "$dir/log/decode.JOB.log" \
  kaldi-uq decode-gmm "${engine_opts[@]}" --job JOB "${lattice_opts[@]}" --acwt "$acwt" --beam "$beam" --max-active "$max_active" \
  --lattice-beam "$lattice_beam" \
  "$data/split$nj/JOB" "$srcdir" "$graph" "$dir/hypotheses.JOB"
echo "$nj" >"$dir/num_jobs"

if [ -f "$data/text" ]; then
  local/score.sh "$data" "$dir"
fi
if [ "$score_lattices" = true ]; then
  need_files "the data preparation" "$data/text"
  run_jobs "$dir/log/score_lattices.log" \
    kaldi-uq score-lattices --min-lmwt "$min_lmwt" --max-lmwt "$max_lmwt" --word-ins-penalty "$word_ins_penalty" \
    "$data" "$graph" "$dir"
  cat "$dir/scoring_kaldi/best_wer"
fi
echo "$0: $dir: $(cat "$dir"/hypotheses.* | wc -l) utterances decoded" >&2
