"""Write the log-likelihoods of a hybrid model, log P(pdf | x) - log P(pdf), unscaled, as a Kaldi archive.

latgen-faster-mapped and align-compiled-mapped read it.  --log-post writes log P(pdf | x).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from kaldi_uq.cli.model_options import (
    add_network_arguments,
    add_speaker_sources,
    open_recogniser,
    read_data_for,
    sources_of,
)
from kaldi_uq.cli.options import (
    add_audio,
    add_max_bad,
    add_shard,
    directory,
    non_negative_int,
    shard_of,
    start_logging,
)
from kaldi_uq.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with wav.scp")
    parser.add_argument("model_dir", type=directory, metavar="MODEL-DIR", help="model, such as exp/dnn")
    parser.add_argument("ark", type=Path, metavar="ARK", help="archive to write")
    parser.add_argument("scp", type=Path, metavar="SCP", help="index of the archive to write")
    parser.add_argument("--log-post", action="store_true", help="without dividing by the priors")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed of the draws [0]")
    add_shard(parser, "compute", "writes what they computed")
    add_network_arguments(parser)
    add_audio(parser)
    add_max_bad(parser)
    add_speaker_sources(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from kaldi_uq.io.ark import MatrixWriter
    from kaldi_uq.io.files import digest
    from kaldi_uq.io.spool import Spool
    from kaldi_uq.recogniser.parts import Parts
    from kaldi_uq.recogniser.recogniser import Recogniser

    start_logging()
    recogniser = open_recogniser(args, words=False)
    if args.log_post and not isinstance(recogniser, Recogniser):
        raise UsageError(f"--log-post: the scores of {args.recogniser} are log-posteriors already; leave it out")
    data = read_data_for(args, recogniser, args.ark)
    recogniser, waves = recogniser.read(
        data, allow_pipes=args.allow_pipes, resample=args.resample, sources=sources_of(args)
    )
    prior = recogniser.model.log_prior.cpu().numpy() if args.log_post else None  # type: ignore[attr-defined]
    shard = shard_of(args)
    key = digest(recogniser.model_key, recogniser.settings, args.seed, recogniser.audio_key(waves))
    parts = Parts(Path(f"{args.ark}.parts"), key, shard)
    if shard is not None:
        made = sum(1 for _ in recogniser.score(waves, seed=args.seed, parts=parts))
        print(f"shard {args.shard}: {made} of {len(waves)} utterances are computed")
        return
    found = Spool()  # batches are of similar length, the archive is in the order of the data
    for utt, scored in recogniser.score(waves, seed=args.seed, parts=parts):
        found.put(utt, scored.scores if prior is None else scored.scores + prior)
    with MatrixWriter(args.ark, args.scp) as writer:
        for utt in data.utts:
            writer.write(utt, found[utt])
    parts.remove()
