"""Disturb the audio of a data directory: white noise, babble, reverberation, another level, or noise as large as an
attack.

Writes OUT-DATA-DIR/wav/*.wav (16 bit, of the same length), one for each utterance even if DATA-DIR has segments;
wav.scp, text, utt2spk, spk2utt and disturbances.jsonl: for each utterance the SNR, and the gain where audio was scaled
down so that nothing clips.  --resample brings all audio to the sample rate of the first recording.

 e.g.: kaldi-uq disturb-data --kind white --snr-db 20 data/test \\
         data/test_white20
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kaldi_uq.audio.names import DRR_DB, KINDS, NUM_TALKERS
from kaldi_uq.cli.options import (
    add_audio,
    add_max_bad,
    directory,
    non_negative_int,
    positive_int,
    read_data,
    start_logging,
)
from kaldi_uq.errors import UsageError
from kaldi_uq.io.datadir import spk2utt_table, write_table
from kaldi_uq.io.files import DoneStamp, write_text
from kaldi_uq.io.names import check_not_input, remove_left_over, wave_files

# kind -> its level, and its further options
_LEVELS = {"white": "snr_db", "babble": "snr_db", "reverb": "rt60", "gain": "gain_db", "uniform": "eps"}
_FURTHER = {"babble": "num_talkers", "reverb": "drr_db"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=directory, metavar="DATA-DIR", help="data directory, with wav.scp and utt2spk")
    parser.add_argument("out_dir", type=Path, metavar="OUT-DATA-DIR", help="data directory to write")
    parser.add_argument("--kind", choices=KINDS, required=True, help="kind of disturbance")
    parser.add_argument("--snr-db", type=float, help="white, babble: power of the speech over power of the noise, dB")
    parser.add_argument("--rt60", type=float, help="reverb: seconds in which the reverberation falls by 60 dB")
    parser.add_argument("--gain-db", type=float, help="gain: how much louder, dB; less where it would clip")
    parser.add_argument("--eps", type=float, help="uniform: bound of each sample's change, full scale 1")
    parser.add_argument("--num-talkers", type=positive_int, help=f"babble: number of other talkers [{NUM_TALKERS}]")
    parser.add_argument("--drr-db", type=float, help=f"reverb: direct over reverberant energy, dB [{DRR_DB:g}]")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="seed for everything random [0]")
    add_audio(parser)
    add_max_bad(parser)


def run(args: argparse.Namespace) -> None:
    from kaldi_uq.audio.disturb import disturb
    from kaldi_uq.io.spool import Spool
    from kaldi_uq.io.wav import to_int16, write_wav
    from kaldi_uq.io.waves import read_waves, sample_rate_of, waves_digest

    start_logging()
    level = _level(args)
    if args.out_dir.resolve() == args.data_dir.resolve():
        raise UsageError(f"{args.out_dir}: the output would replace its own input; choose another directory")
    data = read_data(args, args.out_dir)
    scp = wave_files(args.out_dir, data.utts)
    check_not_input(args.out_dir, (data.whole or data).wav_scp.values())
    rate = sample_rate_of(data, allow_pipes=args.allow_pipes)
    waves = read_waves(data, sample_rate=rate, allow_pipes=args.allow_pipes, resample=args.resample)
    further = {name: value for name in _FURTHER.values() if (value := getattr(args, name)) is not None}
    options = {"kind": args.kind, "level": level, "seed": args.seed, "audio": waves_digest(waves), **further}
    inputs = [args.data_dir / name for name in ("utt2spk", "text") if (args.data_dir / name).is_file()]
    stamp = DoneStamp(args.out_dir, "disturb", options=options, inputs=inputs)
    if not stamp.is_current():
        made, records = Spool(), []  # an utterance that cannot be disturbed leaves earlier files in place
        for utt, result in disturb(waves, data.utt2spk, args.kind, level, sample_rate=rate, seed=args.seed, **further):
            made.put(utt, to_int16(result.wav))
            records.append({"utt": utt, "snr_db": result.snr_db, "gain": result.gain})
        stamp.clear()
        remove_left_over(args.out_dir, scp.values())
        for utt, samples in made.items():
            write_wav(scp[utt], samples, rate)
        write_text(args.out_dir / "disturbances.jsonl", "".join(json.dumps(record) + "\n" for record in records))
        write_table(args.out_dir / "wav.scp", {utt: str(path) for utt, path in scp.items()})
        if data.text:
            write_table(args.out_dir / "text", data.text)
        else:
            (args.out_dir / "text").unlink(missing_ok=True)
        write_table(args.out_dir / "utt2spk", data.utt2spk)
        write_table(args.out_dir / "spk2utt", spk2utt_table(data.utt2spk))
        stamp.write()
    print(f"{args.out_dir}: {len(waves)} utterances, {args.kind} {flag_of(args.kind)} {level:g}")


def flag_of(kind: str) -> str:
    """The name of a kind's level, as an option has it.

    >>> flag_of("white")
    'snr-db'
    """
    return _LEVELS[kind].replace("_", "-")


def _level(args: argparse.Namespace) -> float:
    """The level of the kind.

    Raises:
        UsageError: it is missing, out of range, or an option of another kind is given.
    """
    wanted = _LEVELS[args.kind]
    for name in sorted({*_LEVELS.values(), *_FURTHER.values()} - {wanted, _FURTHER.get(args.kind)}):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is no option of --kind {args.kind}; leave it out")
    level = getattr(args, wanted)
    if level is None:
        raise UsageError(f"--kind {args.kind} needs --{flag_of(args.kind)}")
    ranges = dict.fromkeys(("snr_db", "drr_db", "gain_db"), (-100.0, 100.0)) | {
        "rt60": (0.001, 10.0),
        "eps": (0.0, 1.0),
    }
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise UsageError(f"--{name.replace('_', '-')} must be in [{low:g}, {high:g}], got {value:g}")
    return float(level)
