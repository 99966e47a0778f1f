"""Build a language directory from a dictionary directory, as Kaldi's ``prepare_lang`` does.

A dictionary directory holds ``lexicon.txt``, ``silence_phones.txt``, ``nonsilence_phones.txt``,
``optional_silence.txt`` and, beyond Kaldi's, an optional ``num_states.txt`` (``phone number``): the number of emitting
states of a phone; the default is 3, and 5 for silence.  With it a whole word can be one phone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from kaldi_uq.engine.base import Engine
from kaldi_uq.errors import DataError
from kaldi_uq.io.datadir import c_sorted, read_table
from kaldi_uq.io.files import read_lines, write_text
from kaldi_uq.io.kaldi_model import NO_PDF, HmmState, Topology
from kaldi_uq.io.lang import RESERVED_WORDS, write_symbols

SIL_PROB = 0.5  # probability of the optional silence after a word, as in Kaldi


@dataclass(frozen=True)
class Dictionary:
    """A dictionary directory, read and checked.

    Attributes:
        lexicon: (word, phones) pairs in the order of the file.
        silence, nonsilence: the phones.
        optional_silence: the phone that may stand between words.
        num_states: number of emitting states of each phone.
    """

    lexicon: tuple[tuple[str, tuple[str, ...]], ...]
    silence: tuple[str, ...]
    nonsilence: tuple[str, ...]
    optional_silence: str
    num_states: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Dictionary:
        """Read a directory.

        Raises:
            DataError: a file is missing, or the files disagree.
        """
        silence, nonsilence = _phones(path / "silence_phones.txt"), _phones(path / "nonsilence_phones.txt")
        both = sorted(set(silence) & set(nonsilence))
        if both:
            raise DataError(f"{path / 'nonsilence_phones.txt'}: {both[0]!r} is in both lists of phones")
        optional = [line for _, line in read_lines(path / "optional_silence.txt")]
        if len(optional) != 1 or optional[0] not in silence:
            raise DataError(
                f"{path / 'optional_silence.txt'}: expected one phone of silence_phones.txt, found {optional}"
            )
        known = set(silence) | set(nonsilence)
        lexicon = _lexicon(path / "lexicon.txt", known)
        num_states = {p: 5 for p in silence} | {p: 3 for p in nonsilence}
        if (path / "num_states.txt").is_file():
            for phone, value in read_table(path / "num_states.txt", check_sorted=False).items():
                if phone not in known or not value.isdigit() or int(value) < 1:
                    raise DataError(
                        f"{path / 'num_states.txt'}: expected '<phone> <states>', found {phone!r} {value!r}"
                    )
                num_states[phone] = int(value)
        return cls(lexicon, silence, nonsilence, optional[0], num_states)


def _lexicon(path: Path, known: set[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    entries: dict[tuple[str, tuple[str, ...]], int] = {}
    for number, line in read_lines(path):
        word, *phones = line.split()
        if word in RESERVED_WORDS:
            raise DataError(f"{path}:{number}: {word!r} is a name for symbols of the FSTs, not for a word")
        if not phones:
            raise DataError(f"{path}:{number}: word {word!r} has no phones")
        for phone in phones:
            if phone not in known:
                raise DataError(f"{path}:{number}: phone {phone!r} is in neither list of phones")
        if entries.setdefault((word, tuple(phones)), number) != number:
            raise DataError(f"{path}:{number}: {line!r} stands twice; remove one")
    return tuple(entries)


def _phones(path: Path) -> tuple[str, ...]:
    phones: dict[str, int] = {}
    for number, line in read_lines(path):
        for phone in line.split():
            if phone.startswith("#") or phone == "<eps>":
                raise DataError(f"{path}:{number}: {phone!r} is a name for symbols of the FSTs, not for a phone")
            if phone in phones:
                raise DataError(f"{path}:{number}: {phone!r} stands twice; remove one")
            phones[phone] = number
    return tuple(phones)


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


def disambiguate(lexicon: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    """Append ``#1``, ``#2``... to pronunciations that are shared or are the beginning of another one.

    Returns:
        The lexicon and the largest number used.
    """
    counts = Counter(phones for _, phones in lexicon)
    prefixes = {phones[:n] for phones in counts for n in range(1, len(phones))}
    used: Counter[tuple[str, ...]] = Counter()
    out = []
    for word, phones in lexicon:
        if counts[phones] == 1 and phones not in prefixes:
            out.append((word, phones))
            continue
        used[phones] += 1
        out.append((word, (*phones, f"#{used[phones]}")))
    return out, max(used.values(), default=0)


def lexicon_fst(
    lexicon: list[tuple[str, tuple[str, ...]]],
    phones: dict[str, int],
    words: dict[str, int],
    silence: str,
    sil_disambig: str | None = None,
) -> str:
    """The lexicon as OpenFst text: words with an optional silence after each and at the beginning."""
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
    for word, pronunciation in lexicon:
        state, label = loop, words[word]
        for phone in pronunciation[:-1]:
            arcs.append(f"{state} {following} {phones[phone]} {label}")
            state, label, following = following, 0, following + 1
        last = phones[pronunciation[-1]]
        arcs += [f"{state} {loop} {last} {label} {without:.8f}", f"{state} {sil} {last} {label} {with_sil:.8f}"]
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
    vocabulary = c_sorted({word for word, _ in dictionary.lexicon})
    if oov_word not in vocabulary:
        raise DataError(f"{dict_dir / 'lexicon.txt'}: the oov word {oov_word!r} is not in it; add it or name another")
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
    plain = lexicon_fst(list(dictionary.lexicon), phones, words, dictionary.optional_silence)
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
    each = (*dictionary.silence, *dictionary.nonsilence)
    write_text(out / "sets.txt", "".join(f"{p}\n" for p in each))
    write_text(out / "sets.int", "".join(f"{phones[p]}\n" for p in each))
    write_text(out / "roots.txt", "".join(f"shared split {p}\n" for p in each))
    write_text(out / "roots.int", "".join(f"shared split {phones[p]}\n" for p in each))
    write_text(out / "extra_questions.txt", " ".join(dictionary.silence) + "\n")
    write_text(out / "extra_questions.int", " ".join(str(phones[p]) for p in dictionary.silence) + "\n")
    rows: list[tuple[str, str, tuple[str, ...]]] = [("<eps>", "<eps>", (dictionary.optional_silence,))]
    rows += [(word, word, pronunciation) for word, pronunciation in dictionary.lexicon]
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
