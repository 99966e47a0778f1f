"""The dispatcher: finds the command, turns an error into one line and exit status 1.

A command is a module of this package with a docstring (its help text), ``add_arguments(parser)`` and ``run(args)``,
and a line of ``COMMANDS``.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shlex
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from kaldi_uq import __version__
from kaldi_uq.cli.parser import OneLineParser, ParagraphFormatter
from kaldi_uq.cli.preloaded import ask
from kaldi_uq.cli.turns import is_one_of_several, let_others_speak
from kaldi_uq.errors import KaldiUqError, LostWorkerError, OtherAudioError, UsageError, did_you_mean, one_line

FIRST = "commands that a person types"
DATA = "data and features"
LANGUAGE = "language and decoding graph"
GMM = "Gaussian mixtures"
NETWORK = "networks and their scores"
ATTACK = "attacks and detectors of a recipe"
RECIPE = "what the scripts of a recipe call"

# command -> (module, group, summary); modules are imported late, so that --help needs no torch
COMMANDS: dict[str, tuple[str, str, str]] = {
    "doctor": ("doctor", FIRST, "say what is installed, what is missing, and how to mend it"),
    "init": ("init", FIRST, "write a directory with a recipe that can run"),
    "link": ("link", FIRST, "put uq beside the steps of a Kaldi recipe"),
    "detect": ("detect", FIRST, "judge WAV files: is this audio an attack, and where"),
    "attack": ("attack", FIRST, "make the recogniser hear a text of your choice in WAV files"),
    "fit-detector": ("fit_detector", FIRST, "fit the detectors of a model on benign audio"),
    "worst-case": ("worst_case", FIRST, "say which utterances any of several attacks reaches"),
    "nnet-certify": ("nnet_certify", FIRST, "prove that no small change makes a model write another text"),
    "validate-data": ("validate_data", FIRST, "check a data directory"),
    "completion": ("completion", FIRST, "have the shell complete commands, options and file names"),
    "report": ("report", FIRST, "tables, figures and one HTML page from results.json"),
    "fix-data": ("fix_data", DATA, "sort a data directory, drop incomplete utterances"),
    "disturb-data": ("disturb_data", DATA, "add noise, babble or reverberation to a data directory"),
    "split-data": ("split_data", DATA, "split a data directory into parts for parallel jobs"),
    "compute-mfcc": ("compute_mfcc", DATA, "compute Kaldi's MFCC of a data directory"),
    "compute-cmvn": ("compute_cmvn", DATA, "accumulate CMVN statistics per speaker"),
    "frame-shift": ("frame_shift", DATA, "print the frame shift of a feature configuration"),
    "prepare-lang": ("prepare_lang", LANGUAGE, "build a language directory from a dictionary directory"),
    "train-lm": ("train_lm", LANGUAGE, "estimate an n-gram language model from a text"),
    "arpa-to-fst": ("arpa_to_fst", LANGUAGE, "compile an ARPA language model into G.fst"),
    "make-graph": ("make_graph", LANGUAGE, "compose the decoding graph HCLG.fst"),
    "train-mono": ("train_mono", GMM, "train a monophone GMM system"),
    "train-deltas": ("train_deltas", GMM, "train a triphone GMM system on alignments"),
    "align-gmm": ("align_gmm", GMM, "align a data directory with a GMM system"),
    "decode-gmm": ("decode_gmm", GMM, "decode a data directory with a GMM system"),
    "score-text": ("score_text", NETWORK, "word error rate of hypotheses"),
    "score-lattices": ("score_lattices", NETWORK, "word error rates of lattices over language model weights"),
    "nnet-train": ("nnet_train", NETWORK, "train a hybrid acoustic model on alignments"),
    "nnet-forward": ("nnet_forward", NETWORK, "write a model's log-likelihoods as a Kaldi archive"),
    "nnet-decode": ("nnet_decode", NETWORK, "decode benign audio and measure the model's uncertainty"),
    "nnet-attack": ("nnet_attack", ATTACK, "attack a model at the waveform"),
    "nnet-transfer": ("nnet_transfer", ATTACK, "play the examples made against one model to another"),
    "nnet-negatives": ("nnet_negatives", ATTACK, "measure detectors on benign but hard audio"),
    "nnet-detect": ("nnet_detect", ATTACK, "measure the detectors of a model against an attack"),
    "nnet-consistency": ("nnet_consistency", ATTACK, "search near audio for changes heard as other words"),
    "check-attacks": ("check_attacks", ATTACK, "say whether the attacks on a model are meaningful"),
    "check-eps": ("check_eps", ATTACK, "check a perturbation bound and print its shortest form"),
    "recipe-attack": (
        "recipe_attack",
        RECIPE,
        "check how an attack was asked for; print name and options",
    ),
    "recipe-stage": ("recipe_stage", RECIPE, "say whether a stage is done, or record that it is"),
    "record": ("record", RECIPE, "record environment and timings in results.json"),
    "preload": ("preload", RECIPE, "import the libraries once for all commands of a run"),
}

EXAMPLES = """\
 e.g.: kaldi-uq detect exp/dnn some.wav
       kaldi-uq attack some.wav --target-text "one two" \\
         --model-dir exp/dnn --out attacked.wav"""


EXIT_STATUS = """\
exit status:
  0 done; 1 an error, of one line. detect --fail-on-attack, doctor,
  check-attacks --strict and recipe-stage say more by it: see their help
  Ctrl-C ends a command as it ends a program, which a shell shows as 130"""


def build_parser(*, every: bool = False) -> OneLineParser:
    """The top-level parser: knows the names of the commands, not their options.

    Args:
        every: its help lists every command, and not only those that a person types.
    """
    parser = OneLineParser(
        prog="kaldi-uq",
        usage="kaldi-uq COMMAND [options] [arguments]\n       kaldi-uq --help|--all|--version",
        description=f"Is this audio an attack on my recogniser?\n\n{EXAMPLES}",
        epilog=_listing(every),
        formatter_class=ParagraphFormatter,
        add_help=False,
    )
    options = parser.add_argument_group("options")
    options.add_argument("-h", "--help", action="help", help="show this and exit")
    options.add_argument("--all", action="store_true", help="list every command and exit")
    options.add_argument("--version", action="version", version=f"kaldi-uq {__version__}", help="say it and exit")
    options.add_argument(
        "-v", action="store_true", dest="versions", help="say it with those of what it runs on, and exit; see doctor"
    )
    return parser


def _listing(every: bool) -> str:
    groups = dict.fromkeys(group for _, group, _ in COMMANDS.values())
    shown = [name for name, (_, group, _) in COMMANDS.items() if every or group == FIRST]
    width = max(map(len, shown))
    parts = []
    for group in groups:
        rows = [f"  {name:<{width}}  {COMMANDS[name][2]}" for name in shown if COMMANDS[name][1] == group]
        if rows:
            parts.append("\n".join([f"{group}:", *rows]))
    further = [("kaldi-uq COMMAND --help", "what a command does, and its options")]
    if not every:
        further.insert(0, ("kaldi-uq --all", f"{len(COMMANDS) - len(shown)} more commands, most of them for scripts"))
    parts.append("\n".join(["further:", *(f"  {command:<26}{what}" for command, what in further)]))
    return "\n\n".join([*parts, EXIT_STATUS])


def command_parser(name: str) -> tuple[OneLineParser, object]:
    """The parser of one command and its module."""
    module = importlib.import_module(f"kaldi_uq.cli.{COMMANDS[name][0]}")
    parser = OneLineParser(
        prog=f"kaldi-uq {name}", description=module.__doc__, formatter_class=ParagraphFormatter, add_help=False
    )
    module.add_arguments(parser)
    parser.close()
    return parser, module


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what may follow
        from kaldi_uq.cli.completion import complete

        try:
            complete(build_parser(), {name: summary for name, (_, _, summary) in COMMANDS.items()}, command_parser)
        except KaldiUqError as error:
            return _failed("completion", str(error))
    if argv is None and sys.argv[1:2] and sys.argv[1] in COMMANDS and sys.argv[1] != "preload":
        status = ask(sys.argv[1:])
        if status is not None:
            return status
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            _flush()
    except BrokenPipeError:
        # The reader has seen enough, as in `kaldi-uq ... | head`: no message, and none from the interpreter either.
        _forget_output()
        return 1


def _flush() -> None:
    """Write what was printed: here, and not at the interpreter's end, where nothing can be caught."""
    if not sys.stdout:  # the caller closed it, and wants the exit status alone
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _forget_output()
        sys.exit(f"kaldi-uq: error: the output cannot be written: {error.strerror}")


def _forget_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        return _without_command(argv)
    # Idle threads must sleep, not spin: with another process on the same cores spinning makes PyTorch ten times slower.
    # OpenMP reads this once, when torch is imported, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    name, rest = argv[0], argv[1:]
    parser, module = command_parser(name)
    args = parser.parse(rest)
    try:
        if name != "nnet-train" and is_one_of_several():
            raise UsageError("torchrun starts several processes, and only nnet-train shares its work among such")
        status = module.run(args)  # type: ignore[attr-defined]
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        interrupted(f"kaldi-uq {name}")
    except (KaldiUqError, OSError, ValueError) as error:
        # ValueError: a configuration refused an option's value; its message names the field
        if args.debug:
            raise
        said = _said(error) + _again(error, args, name, rest)
        return _failed(name, said, is_lost=isinstance(error, LostWorkerError))
    except (MemoryError, RuntimeError) as error:
        # RuntimeError: of PyTorch, whose message may be several lines, or a recursion without end
        if args.debug:
            raise
        return _failed(name, f"{_unexpected(error)} (--debug shows where)")
    return int(status or 0)


def _again(error: BaseException, args: argparse.Namespace, name: str, rest: list[str]) -> str:
    """Of audio that the command takes with further options: the command with them, to be copied."""
    options = error.options if isinstance(error, OtherAudioError) else ()
    if not options or not all(hasattr(args, option[2:]) for option in options if option.startswith("--")):
        return ""
    return f": {shlex.join(['kaldi-uq', name, *options, *rest])}"


def _without_command(argv: list[str]) -> int:
    """Answer a command line that begins with no command."""
    parser = build_parser()
    if not argv or not argv[0].startswith("-"):
        if argv:
            parser.error(f"there is no command {argv[0]!r:.60}{did_you_mean(argv[0], COMMANDS)}")
        parser.print_help()
        return 0
    args = parser.parse(argv)
    if args.all:
        build_parser(every=True).print_help()
    if args.versions:
        print("\n".join(_versions()))
    return 0


def _versions() -> Iterator[str]:
    """What a report of a mistake should say; ``doctor`` also tries whether it works."""
    yield f"kaldi-uq {__version__} in {Path(__file__).resolve().parents[1]}"
    yield f"python {platform.python_version()} in {sys.executable}, {platform.system()} {platform.machine()}"
    for name in ("torch", "torchaudio", "numpy", "kaldi-hmm-gmm", "kaldifst"):
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name}: not installed"
    yield f"KALDI_ROOT {os.environ.get('KALDI_ROOT') or 'is not set: the embedded engine'}"


def _failed(name: str, message: str, *, is_lost: bool = False) -> int:
    """Say in one line why a command failed; the exit status.

    Args:
        name: the command.
        message: why.
        is_lost: it is another process that failed.
    """
    let_others_speak(is_lost=is_lost)
    print(f"kaldi-uq {name}: error: {one_line(message)}", file=sys.stderr)
    return 1


def interrupted(program: str) -> NoReturn:
    """End as Ctrl-C ends a program, so that the calling script ends too; one line and no traceback."""
    print(f"{program}: interrupted", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    sys.exit(128 + signal.SIGINT)  # if the signal is blocked


def _unexpected(error: BaseException) -> str:
    """One line about an error whose message was not written for the user."""
    kind = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    said = textwrap.shorten(" ".join(str(error).split()), 300, placeholder=" ...")
    return f"{kind}: {said}" if said else kind


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
