# shellcheck shell=bash
# What the recipes with triphones share, after stages.sh: their Gaussian mixtures (stages 1 to 4), and what follows their
# attacks (stages 8 and 9).  To be sourced; only defines functions, which use the options of the script and, as it sets them:
# num_leaves, totgauss, mono_iters, tri_iters; mono_every: of so many utterances one is for the monophones [all]; attacks, as
# they are filed; command.
# shellcheck disable=SC2154

# triphone_stages: features, monophones, triphones, and how well they decode
triphone_stages() {
  local m
  if stage_begin 1 "features"; then
    need 0 data/train/wav.scp data/test/wav.scp
    make_features conf/mfcc.conf
    stage_end
  fi

  if stage_begin 2 "monophone system and alignments"; then
    need 0 data/lang/L.fst
    need 1 data/train/feats.scp data/train/cmvn.scp
    local for_mono=data/train
    if [ "${mono_every:-1}" -gt 1 ]; then
      for_mono=data/train_mono
      mkdir -p $for_mono
      for m in wav.scp text utt2spk feats.scp; do awk -v n="$mono_every" 'NR % n == 0' "data/train/$m" >"$for_mono/$m"; done
      utils/utt2spk_to_spk2utt.pl $for_mono/utt2spk >$for_mono/spk2utt
      cp data/train/cmvn.scp $for_mono/cmvn.scp
    fi
    steps/train_mono.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --seed "$seed" --totgauss 600 \
      --num-iters "$mono_iters" $for_mono data/lang exp/mono
    steps/align_si.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" data/train data/lang exp/mono exp/mono_ali
    stage_end
  fi

  if stage_begin 3 "triphone system and alignments"; then
    need 2 exp/mono_ali/final.mdl exp/mono_ali/ali.1.gz
    steps/train_deltas.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" --seed "$seed" --num-iters "$tri_iters" \
      "$num_leaves" "$totgauss" data/train data/lang exp/mono_ali exp/tri
    steps/align_si.sh --nj "$nj" --cmd "$train_cmd" "${engine_opts[@]}" data/train data/lang exp/tri exp/tri_ali
    stage_end
  fi

  if stage_begin 4 "decoding graphs and word error rates of the Gaussian mixtures"; then
    need 1 data/test/feats.scp data/test/cmvn.scp
    need 2 exp/mono/final.mdl
    need 3 exp/tri/final.mdl
    for m in mono tri; do
      utils/mkgraph.sh "${engine_opts[@]}" data/lang "exp/$m" "exp/$m/graph"
      steps/decode.sh --nj "$nj" --cmd "$decode_cmd" "${engine_opts[@]}" --lattices false "exp/$m/graph" data/test "exp/$m/decode_test"
      kaldi-uq record exp/results.json --clean "$m=exp/$m/decode_test/wer.json"
    done
    stage_end
  fi
}

# need_attacks MODEL: its scores and its attacks
need_attacks() {
  local a e
  need 6 "exp/$1/score_fit/results.jsonl" "exp/$1/score_test/results.jsonl"
  for a in $attacks; do
    for e in $eps; do need 7 "exp/$1/attack_${a}_eps$e/results.jsonl"; done
  done
}

# detect_attacks MODEL: how well detectors tell its attacks
detect_attacks() {
  local a e
  for a in $attacks; do
    for e in $eps; do
      steps/uq/detect.sh --cmd "$decode_cmd" --seed "$seed" \
        "exp/$1" "exp/$1/score_fit" "exp/$1/score_test" "exp/$1/attack_${a}_eps$e"
    done
  done
}

# detection_stages: detection and report
detection_stages() {
  local m
  if stage_begin 8 "detection"; then
    each_model detect_attacks need_attacks
    stage_end
  fi

  if stage_begin 9 "report" exp/results.json; then
    for m in $models; do need 6 "exp/$m/score_test/results.jsonl"; done
    kaldi-uq report --command "$command" exp exp/report
    stage_end
  fi
}
