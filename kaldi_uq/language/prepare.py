"""Build a language directory from a dictionary directory, as Kaldi's ``prepare_lang`` does.

A dictionary directory holds

* ``lexicon.txt`` (``word phones``), or ``lexiconp.txt`` (``word probability phones``), which goes before it;
* ``silence_phones.txt`` and ``nonsilence_phones.txt``: phones on one line share the roots of the decision tree, and so
  all pdfs of a monophone system;
* ``optional_silence.txt``;
* optionally ``extra_questions.txt``: sets of phones for the tree to ask about, one a line;
* optionally, beyond Kaldi's, ``num_states.txt`` (``phone number``): the number of emitting states of a phone; the
  default is 3, and 5 for silence.  With it a whole word can be one phone.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kaldi_uq.engine.base import Engine
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import c_sorted, read_table
from kaldi_uq.io.files import read_lines, write_text
from kaldi_uq.io.kaldi_model import NO_PDF, HmmState, Topology
from kaldi_uq.io.lang import RESERVED_WORDS, write_symbols

log = logging.getLogger(__name__)

SIL_PROB = 0.5  # probability of the optional silence after a word, as in Kaldi

PhoneSets = tuple[tuple[str, ...], ...]  # lines of phones


class Pronunciation(NamedTuple):
    """A line of the lexicon; the probabilities of a word's pronunciations need not sum to 1."""

    word: str
    phones: tuple[str, ...]
    prob: float = 1.0


@dataclass(frozen=True)
class Dictionary:
    """A dictionary directory, read and checked.

    Attributes:
        lexicon: the pronunciations in the order of the file.
        silence_sets, nonsilence_sets: the phones; those of one set share the roots of the tree.
        optional_silence: the phone that may stand between words.
        questions: sets of phones for the tree to ask about, all silence among them.
        num_states: number of emitting states of each phone.
    """

    lexicon: tuple[Pronunciation, ...]
    silence_sets: PhoneSets
    nonsilence_sets: PhoneSets
    optional_silence: str
    questions: PhoneSets
    num_states: dict[str, int]

    @property
    def silence(self) -> tuple[str, ...]:
        """All silence phones."""
        return tuple(itertools.chain(*self.silence_sets))

    @property
    def nonsilence(self) -> tuple[str, ...]:
        """All other phones."""
        return tuple(itertools.chain(*self.nonsilence_sets))

    @classmethod
    def read(cls, path: Path) -> Dictionary:
        """Read a directory.

        Raises:
            DataError: a file is missing, cannot be used, or the files disagree.
        """
        silence_sets, nonsilence_sets = (_phones(path / f"{name}_phones.txt") for name in ("silence", "nonsilence"))
        silence, nonsilence = (tuple(itertools.chain(*sets)) for sets in (silence_sets, nonsilence_sets))
        both = sorted(set(silence) & set(nonsilence))
        if both:
            raise DataError(f"{path / 'nonsilence_phones.txt'}: {both[0]!r} is in both lists of phones")
        optional = [line for _, line in read_lines(path / "optional_silence.txt")]
        if len(optional) != 1 or optional[0] not in silence:
            raise DataError(
                f"{path / 'optional_silence.txt'}: expected one phone of silence_phones.txt, found {optional}"
            )
        known = {*silence, *nonsilence}
        lexicon = _lexicon(path, known)
        num_states = {p: 5 for p in silence} | {p: 3 for p in nonsilence}
        if (path / "num_states.txt").is_file():
            for phone, value in read_table(path / "num_states.txt", check_sorted=False).items():
                if phone not in known or not re.fullmatch("[1-9][0-9]{0,2}", value):
                    raise DataError(
                        f"{path / 'num_states.txt'}: expected '<phone> <states>', 1 to 999, found {phone!r} {value!r}"
                    )
                num_states[phone] = int(value)
        for phones in (*silence_sets, *nonsilence_sets):
            if len({num_states[phone] for phone in phones}) > 1:
                raise DataError(
                    f"{path / 'num_states.txt'}: {' '.join(phones)} share their states, as they stand on one line of "
                    "the phone lists, and must have the same number of them"
                )
        questions = _questions(path / "extra_questions.txt", known, silence)
        _warn_of_inseparable(path, nonsilence_sets, questions)
        return cls(lexicon, silence_sets, nonsilence_sets, optional[0], questions, num_states)


def _lexicon(path: Path, known: set[str]) -> tuple[Pronunciation, ...]:
    """The lexicon of a dictionary directory; ``lexiconp.txt`` goes before ``lexicon.txt``, as in Kaldi."""
    plain, weighted, silence = (path / name for name in ("lexicon.txt", "lexiconp.txt", "lexiconp_silprob.txt"))
    if silence.is_file():
        raise DataError(
            f"{silence}: probabilities of silence for each word are not supported; move the file away to have a "
            f"probability of {SIL_PROB:g} after every word"
        )
    if not weighted.is_file():
        return _read_lexicon(plain, known, has_probs=False)
    lexicon = _read_lexicon(weighted, known, has_probs=True)
    if plain.is_file():
        other = _read_lexicon(plain, known, has_probs=False)
        for one, two in itertools.zip_longest(lexicon, other):
            if one is None or two is None or one[:2] != two[:2]:
                found, instead = (f"{e.word} {' '.join(e.phones)!r}" if e else "its end" for e in (one, two))
                raise DataError(
                    f"{weighted}: {found} stands where {plain.name} has {instead}; remove the file that is out of date"
                )
    return lexicon


def _read_lexicon(path: Path, known: set[str], *, has_probs: bool) -> tuple[Pronunciation, ...]:
    entries: dict[tuple[str, tuple[str, ...]], int] = {}
    lexicon = []
    for number, line in read_lines(path):
        word, *phones = line.split()
        if word in RESERVED_WORDS:
            raise DataError(f"{path}:{number}: {word!r} is a name for symbols of the FSTs, not for a word")
        prob = _probability(phones.pop(0) if phones else "", f"{path}:{number}") if has_probs else 1.0
        if not phones:
            raise DataError(f"{path}:{number}: word {word!r} has no phones")
        for phone in phones:
            if phone not in known:
                raise DataError(f"{path}:{number}: phone {phone!r} is in neither list of phones")
        if entries.setdefault((word, tuple(phones)), number) != number:
            twice = f"'{word} {' '.join(phones)}'"
            raise DataError(f"{path}:{number}: {twice} stands twice; remove one")
        lexicon.append(Pronunciation(word, tuple(phones), prob))
    return tuple(lexicon)


def _probability(text: str, where: str) -> float:
    try:
        prob = float(text)
    except ValueError:
        prob = math.nan
    if not 0.0 < prob <= 1.0:
        raise DataError(
            f"{where}: expected '<word> <probability> <phones>', the probability above 0 and at most 1, found {text!r}"
        )
    return prob


def _phones(path: Path) -> PhoneSets:
    seen: set[str] = set()
    sets = []
    for number, line in read_lines(path):
        for phone in line.split():
            if phone.startswith("#") or phone == "<eps>":
                raise DataError(f"{path}:{number}: {phone!r} is a name for symbols of the FSTs, not for a phone")
            if phone in seen:
                raise DataError(f"{path}:{number}: {phone!r} stands twice; remove one")
            seen.add(phone)
        sets.append(tuple(line.split()))
    return tuple(sets)


def _questions(path: Path, known: set[str], silence: tuple[str, ...]) -> PhoneSets:
    """The lines of ``extra_questions.txt``, which may be missing or empty as in Kaldi, and one of all silence."""
    questions = []
    for number, line in read_lines(path) if path.is_file() and path.stat().st_size else ():
        unknown = [phone for phone in line.split() if phone not in known]
        if unknown:
            raise DataError(f"{path}:{number}: phone {unknown[0]!r} is in neither list of phones")
        questions.append(tuple(line.split()))
    return (*questions, *(() if any(set(q) == set(silence) for q in questions) else (silence,)))


def _warn_of_inseparable(path: Path, sets: PhoneSets, questions: PhoneSets) -> None:
    pairs = itertools.chain.from_iterable(itertools.combinations(phones, 2) for phones in sets)
    same = [(one, two) for one, two in pairs if not any((one in q) != (two in q) for q in questions)]
    if same:
        log.warning(
            "%s: %s and %s stand on one line, and no line of extra_questions.txt has only one of them: their models "
            "are the same in every context%s",
            path / "nonsilence_phones.txt",
            *same[0],
            f"; so are {len(same) - 1} other pairs" if len(same) > 1 else "",
        )


def state_chain(num_states: int, self_loop: float = 0.75) -> tuple[HmmState, ...]:
    """A left-to-right HMM: each state loops or goes on; the last, final one emits nothing."""
    chain = [HmmState(i, i, ((i, self_loop), (i + 1, 1.0 - self_loop))) for i in range(num_states)]
    return (*chain, HmmState(NO_PDF, NO_PDF, ()))


def silence_states(num_states: int) -> tuple[HmmState, ...]:
    """Kaldi's silence model: an initial state, fully connected middle states, a last one; a chain below 3 states."""
    if num_states < 3:
        return state_chain(num_states)
    middle = 1.0 / (num_states - 1)
    states = [HmmState(0, 0, tuple((to, middle) for to in range(num_states - 1)))]
    for i in range(1, num_states - 1):
        states.append(HmmState(i, i, tuple((to, middle) for to in range(1, num_states))))
    last = num_states - 1
    states.append(HmmState(last, last, ((last, 0.75), (num_states, 0.25))))
    return (*states, HmmState(NO_PDF, NO_PDF, ()))


def make_topology(dictionary: Dictionary, phones: dict[str, int]) -> Topology:
    """The topology of all phones; phones with equal HMMs share an entry."""
    entries: dict[tuple[HmmState, ...], int] = {}
    phone2idx = [-1] * (1 + max(phones[p] for p in (*dictionary.silence, *dictionary.nonsilence)))
    for phone in (*dictionary.nonsilence, *dictionary.silence):
        count = dictionary.num_states[phone]
        states = silence_states(count) if phone in dictionary.silence else state_chain(count)
        phone2idx[phones[phone]] = entries.setdefault(states, len(entries))
    used = tuple(sorted(phones[p] for p in (*dictionary.silence, *dictionary.nonsilence)))
    return Topology(used, tuple(phone2idx), tuple(entries))


def disambiguate(lexicon: Sequence[Pronunciation]) -> tuple[list[Pronunciation], int]:
    """Append ``#1``, ``#2``... to pronunciations that are shared or are the beginning of another one.

    Returns:
        The lexicon and the largest number used.
    """
    counts = Counter(entry.phones for entry in lexicon)
    prefixes = {phones[:n] for phones in counts for n in range(1, len(phones))}
    used: Counter[tuple[str, ...]] = Counter()
    out = []
    for entry in lexicon:
        phones = entry.phones
        if counts[phones] == 1 and phones not in prefixes:
            out.append(entry)
            continue
        used[phones] += 1
        out.append(entry._replace(phones=(*phones, f"#{used[phones]}")))
    return out, max(used.values(), default=0)


def lexicon_fst(
    lexicon: Iterable[Pronunciation],
    phones: dict[str, int],
    words: dict[str, int],
    silence: str,
    sil_disambig: str | None = None,
) -> str:
    """The lexicon as OpenFst text: words with an optional silence after each and at the beginning.

    The first arc of a pronunciation carries its probability.
    """
    with_sil, without = -math.log(SIL_PROB), -math.log(1.0 - SIL_PROB)
    start, loop, sil = 0, 1, 2
    arcs = [f"{start} {loop} 0 0 {without:.8f}", f"{start} {sil} 0 0 {with_sil:.8f}"]
    following = 3
    if sil_disambig is None:
        arcs.append(f"{sil} {loop} {phones[silence]} 0")
    else:
        arcs += [f"{sil} {following} {phones[silence]} 0", f"{following} {loop} {phones[sil_disambig]} 0"]
        following += 1
        arcs.append(f"{loop} {loop} {phones['#0']} {words['#0']}")
    for entry in lexicon:
        state, label, cost = loop, words[entry.word], -math.log(entry.prob)
        for phone in entry.phones[:-1]:
            arcs.append(f"{state} {following} {phones[phone]} {label}" + (f" {cost:.8f}" if cost else ""))
            state, label, cost, following = following, 0, 0.0, following + 1
        last = phones[entry.phones[-1]]
        arcs += [
            f"{state} {loop} {last} {label} {without + cost:.8f}",
            f"{state} {sil} {last} {label} {with_sil + cost:.8f}",
        ]
    return "\n".join([*arcs, f"{loop} 0", ""])


def prepare_lang(dict_dir: Path, oov_word: str, lang_dir: Path, engine: Engine) -> None:
    """Write a language directory without a grammar.

    Args:
        dict_dir: the dictionary directory.
        oov_word: the word of the lexicon that stands for unknown words.
        lang_dir: directory to write.
        engine: engine that compiles the FSTs.

    Raises:
        DataError: a malformed dictionary, or an oov word outside it.
    """
    dictionary = Dictionary.read(dict_dir)
    vocabulary = c_sorted({entry.word for entry in dictionary.lexicon})
    if oov_word not in vocabulary:
        raise DataError(f"{dict_dir}: the oov word {oov_word!r} is not in the lexicon; add it or name another")
    lexicon, last = disambiguate(dictionary.lexicon)
    disambig = [f"#{n}" for n in range(last + 2)]  # #0 for the grammar; the last one for the optional silence
    phone_list = ["<eps>", *dictionary.silence, *dictionary.nonsilence, *disambig]
    (lang_dir / "phones").mkdir(parents=True, exist_ok=True)
    phones = write_symbols(lang_dir / "phones.txt", phone_list)
    words = write_symbols(lang_dir / "words.txt", ["<eps>", *vocabulary, "#0", "<s>", "</s>"])
    write_text(lang_dir / "oov.txt", oov_word + "\n")
    write_text(lang_dir / "oov.int", f"{words[oov_word]}\n")
    write_text(lang_dir / "topo", make_topology(dictionary, phones).to_text())
    _write_phone_lists(lang_dir / "phones", dictionary, phones, words, disambig)
    plain = lexicon_fst(dictionary.lexicon, phones, words, dictionary.optional_silence)
    engine.compile_fst(plain, lang_dir / "L.fst", sort="olabel")
    text = lexicon_fst(lexicon, phones, words, dictionary.optional_silence, disambig[-1])
    engine.compile_fst(text, lang_dir / "L_disambig.fst", sort="olabel")


def _write_phone_lists(
    out: Path, dictionary: Dictionary, phones: dict[str, int], words: dict[str, int], disambig: list[str]
) -> None:
    groups = {
        "silence": dictionary.silence,
        "nonsilence": dictionary.nonsilence,
        "optional_silence": (dictionary.optional_silence,),
        "context_indep": dictionary.silence,
        "disambig": tuple(disambig),
        "wdisambig_phones": ("#0",),
    }
    for name, members in groups.items():
        ids = [str(phones[p]) for p in members]
        write_text(out / f"{name}.txt", "".join(f"{p}\n" for p in members))
        write_text(out / f"{name}.int", "".join(f"{i}\n" for i in ids))
        write_text(out / f"{name}.csl", ":".join(ids) + "\n")
    write_text(out / "wdisambig.txt", "#0\n")
    write_text(out / "wdisambig_words.int", f"{words['#0']}\n")
    sets = (*dictionary.silence_sets, *dictionary.nonsilence_sets)
    for name, start, lines in (
        ("sets", "", sets),
        ("roots", "shared split ", sets),
        ("extra_questions", "", dictionary.questions),
    ):
        write_text(out / f"{name}.txt", "".join(f"{start}{' '.join(line)}\n" for line in lines))
        write_text(out / f"{name}.int", "".join(f"{start}{' '.join(str(phones[p]) for p in line)}\n" for line in lines))
    rows: list[tuple[str, str, tuple[str, ...]]] = [("<eps>", "<eps>", (dictionary.optional_silence,))]
    rows += [(entry.word, entry.word, entry.phones) for entry in dictionary.lexicon]
    text = "".join(f"{a} {b} {' '.join(p)}\n" for a, b, p in rows)
    ints = "".join(f"{words[a]} {words[b]} {' '.join(str(phones[x]) for x in p)}\n" for a, b, p in rows)
    write_text(out / "align_lexicon.txt", text)
    write_text(out / "align_lexicon.int", ints)


def loop_grammar(word_list: list[str], words: dict[str, int]) -> str:
    """A grammar in which any word can follow any word, all alike: OpenFst text.

    >>> print(loop_grammar(["one", "two"], {"one": 1, "two": 2}), end="")
    0 0 1 1 1.09861229
    0 0 2 2 1.09861229
    0 1.09861229
    """
    cost = math.log(len(word_list) + 1)
    arcs = [f"0 0 {words[word]} {words[word]} {cost:.8f}" for word in word_list]
    return "\n".join([*arcs, f"0 {cost:.8f}", ""])
