"""The page, its files and its figures: from small made-up results, checked against their numbers."""

from __future__ import annotations

import base64
import csv
import io
import re
import sys
import wave
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.io.files import file_digest
from kaldi_uq.report import plots
from kaldi_uq.report.build import build_report, results_text
from kaldi_uq.report.examples import Perturbed, wav_bytes
from kaldi_uq.report.folder import LIST
from kaldi_uq.report.run import Run
from kaldi_uq.report.spectrograms import EXCESS_DB, LEVELS_DB, entropy_figure, perturbation_figure
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import ErrorRate
from tests.report import attack_row, detection_row, make_example, sample, write_exp

pytestmark = pytest.mark.long

COMMAND = "recipes/tidigits/run.sh --preset mini --seed 0"
RATE = 8000
TRIES = [("Listen & judge", ["kaldi-uq detect exp/dnn <a.wav>", "echo done"])]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exp(tmp_path_factory.mktemp("exp"))


@pytest.fixture(scope="module")
def run(exp: Path) -> Run:
    return Run(Results(exp / "results.json").read())


@pytest.fixture(scope="module")
def report(exp: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    built = build_report(exp, out, command=COMMAND, examples=[make_example()], perturbed=[perturbed()], tries=TRIES)
    assert built == out / "report.html"
    return out


def perturbed() -> Perturbed:
    """A tone of 1 kHz in the second half second; a faint one of 1 kHz there, and one of 3 kHz where all is silent."""
    time = np.arange(RATE) / RATE
    late = time >= 0.5
    original = 0.5 * np.sin(2 * np.pi * 1000 * time) * late
    hidden = original + 0.005 * np.cos(2 * np.pi * 1000 * time) * late
    heard = original + 0.005 * np.sin(2 * np.pi * 3000 * time) * ~late
    return Perturbed("utt", "dnn", RATE, original, {"hidden": hidden, "heard": heard})


class Page(HTMLParser):
    """Collects the addresses, the texts of images and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alts: list[str | None] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.closed = False  # whether there are details to open
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.addresses += [values[name] or "" for name in ("src", "href", "srcset", "data", "poster") if name in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        assert not [name for name in values if name.startswith("on")]
        self.closed |= tag == "details" and "open" not in values
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# the page


def test_page_needs_nothing_from_outside(report: Path) -> None:
    text = (report / "report.html").read_text()
    page = Page(text)
    assert len(page.alts) == 5 and all(page.alts)  # accuracy, histogram, ROC, example, perturbation
    assert page.closed  # definitions are there, and out of the way
    for address in page.addresses:
        assert address.startswith(("data:", "#")), address[:80]
    anchors = [address[1:] for address in page.addresses if address.startswith("#")]
    assert anchors == ["summary", "try", "examples", "clean", "attacks", "detection", "words", "run"]
    assert set(anchors) <= set(page.ids) and len(set(page.ids)) == len(page.ids)
    assert not re.search(r"https?://|url\(|@import", text)


def test_embedded_svg_fetches_nothing(report: Path) -> None:
    text = (report / "report.html").read_text()
    svgs = [base64.b64decode(code) for code in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text)]
    assert len(svgs) == 3
    for svg in svgs:
        assert b"<dc:date>" not in svg
        for address in re.findall(rb"(?:href|src)=\"([^\"]*)\"", svg):
            assert address.startswith((b"#", b"data:"))


def test_page_shows_the_numbers_of_the_results(report: Path) -> None:
    text = (report / "report.html").read_text()
    for number in ("0.610 [0.600, 0.620]", "0.993 [0.983, 1.000]", "0.994", "0.997", "-0.125", "21.5", "0.314", "12.3"):
        assert number in text, number
    assert COMMAND in text
    assert "MC dropout" not in text and "BNN" not in text  # not in these results


def test_names_and_texts_of_strangers_are_escaped(tmp_path: Path) -> None:
    results = Results(tmp_path / "exp/results.json")
    results.set_environment({EVIL: EVIL})
    results.set_clean(EVIL, ErrorRate(num_words=10, num_utts=4))
    results.add_attack(attack_row(EVIL, EVIL, 0.02) | {"checks": [EVIL]})
    results.add_detection([detection_row(EVIL, EVIL, 0.02, EVIL, 0.6, detector=EVIL, sided=EVIL)])
    results.add_detection([detection_row(EVIL, EVIL, 0.02, "max_predictive_entropy", 0.6)])
    results.set_checks(EVIL, {EVIL: {"passed": False, "value": 1.0, "limit": 0.0, "remedy": EVIL, "failed": [EVIL]}})
    results.add_timing(EVIL, 1.0)
    texts = dict.fromkeys(("utt", "model", "attack", "original", "target", "hypothesis"), EVIL)
    words = [(EVIL, 0.1, 0.2)]
    example = make_example(**texts, hypothesis_words=words)
    page = build_report(tmp_path / "exp", tmp_path / "out", command=EVIL, examples=[example]).read_text()
    Page(page)
    assert EVIL not in page and page.count("&lt;img src=x") > 20


def test_page_plays_the_audio_of_the_example(report: Path) -> None:
    text = (report / "report.html").read_text()
    sounds = [base64.b64decode(code) for code in re.findall(r"data:audio/wav;base64,([^\"]+)", text)]
    example = make_example()
    assert sounds == [wav_bytes(s, example.rate) for s in (example.original_samples, example.attacked_samples)]


def test_report_leaves_every_number_and_figure_as_files(report: Path, exp: Path, tmp_path: Path) -> None:
    names = {path.name for path in report.iterdir()}
    assert {"report.html", "RESULTS", "attacks.csv", "detection.csv", "results.json.gz"} <= names
    figures = {path.name for path in (report / "figures").iterdir()}
    for stem in ("figure1_accuracy_pgd", "figure2_histogram_dnn_pgd_eps0.02", "figure3_roc_dnn_pgd_eps0.02"):
        assert {f"{stem}.png", f"{stem}.svg", f"{stem}.pdf"} <= figures
    assert {"example_dnn_pgd_eps0.02_test_003_.png", "spectrogram_utt.png"} <= figures
    for name in ("clean", "attacks", "statistics_pgd_eps0.02"):
        tex = (report / "tables" / f"{name}.tex").read_text()
        assert tex.count(r"\begin{tabular}") == 1 and r"\toprule" in tex
        shown = list(csv.reader(io.StringIO((report / "tables" / f"{name}.csv").read_text())))
        assert len(shown) > 1 and len({len(row) for row in shown}) == 1
    rows = list(csv.DictReader(io.StringIO((report / "detection.csv").read_text())))
    assert len(rows) == 16 and {row["detector"] for row in rows} == {"gaussian", "kde"}
    assert {row["auroc_lo"] for row in rows if row["detector"] == "kde"} == {"0.304"}
    # what a run leaves makes the same report again, but for histograms, ROC curves and examples
    again = build_report(report, tmp_path, command=COMMAND).with_name("RESULTS")
    assert again.read_text() == (report / "RESULTS").read_text()


def test_two_runs_give_the_same_bytes(exp: Path, report: Path, tmp_path: Path) -> None:
    def content(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    build_report(exp, tmp_path, command=COMMAND, examples=[make_example()], perturbed=[perturbed()], tries=TRIES)
    assert content(tmp_path) == content(report)


def test_smaller_report_takes_away_what_a_larger_one_left_and_nothing_else(tmp_path: Path) -> None:
    exp, out = write_exp(tmp_path / "exp"), tmp_path / "out"
    build_report(exp, out, command=COMMAND, examples=[make_example()])
    first = {path for path in out.rglob("*") if path.is_file()}
    mine = {out / "notes.txt", out / "mine.csv", out / "figures/mine.png", out / "tables/mine.tex"}
    changed = out / "figures/figure1_accuracy_pgd.svg"
    for path in {*mine, changed}:
        path.write_text("mine")
    outside = tmp_path / "outside.csv"
    outside.write_text("mine")
    with open(out / LIST, "a") as stream:  # a list from a stranger
        for name in ("../outside.csv", str(outside), "figures/../../outside.csv", "figures"):
            stream.write(f"{file_digest(outside)}  {name}\n")
    results = Results(exp / "results.json")
    (exp / "results.json").unlink()
    results.set_clean("dnn", ErrorRate(num_words=10, num_utts=4))
    build_report(exp, out, command=COMMAND)
    left = {path for path in out.rglob("*") if path.is_file()}
    build_report(exp, tmp_path / "fresh", command=COMMAND)
    fresh = {out / path.relative_to(tmp_path / "fresh") for path in (tmp_path / "fresh").rglob("*") if path.is_file()}
    assert left == fresh | mine | {changed} and len(first - left) > 20
    assert all(path.read_text() == "mine" for path in {*mine, changed, outside})


def test_report_of_little_is_a_little_report(tmp_path: Path) -> None:
    results = Results(tmp_path / "exp" / "results.json")
    results.set_clean("dnn", ErrorRate(num_words=10, num_utts=4))
    page = build_report(tmp_path / "exp", tmp_path / "out", command=COMMAND)
    text = page.read_text()
    assert "Table 1" in text and "hold no attack yet" in text
    for absent in ("attacks", "detection", "examples"):
        assert f'id="{absent}"' not in text
    assert (
        page.with_name("RESULTS").read_text().startswith(f"# {COMMAND}\n\nThe results hold no attack yet.\n\n**Table 1")
    )


def test_results_text_opens_with_the_command(run: Run) -> None:
    text = results_text(run, command=COMMAND)
    assert text.startswith(f"# {COMMAND}\n# device: cpu, engine: embedded, seed: 0\n")
    assert "**Table 1: word accuracy on benign audio.**" in text and "0.610 [0.600, 0.620]" in text


def test_report_without_results_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json: no such file; run the stages"):
        build_report(tmp_path, tmp_path / "out", command=COMMAND)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("package", ["pandas", "jinja2"])
def test_command_without_its_packages_says_what_to_install(
    package: str, exp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if re.match(rf"kaldi_uq\.report\.|{package}\b", name)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["report", str(exp), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and package in error and "pip install 'kaldi-uq[report]'" in error


def test_command_makes_the_report_of_a_model_that_is_no_hybrid(
    exp: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Audio and texts are shown; the entropy of frames and the times of words need a hybrid model."""
    for folder in (tmp_path / "data/attack", exp / "dnn/attack_pgd_eps0.02"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.wav").write_bytes(wav_bytes(np.asarray(make_example().original_samples), RATE))
        (folder / "wav.scp").write_text("".join(f"test{n:03d} {folder}/a.wav\n" for n in range(40)))
    options = ["--data-dir", str(tmp_path / "data"), "--num-examples", "1", "--command", COMMAND]
    assert main(["report", str(exp), str(tmp_path / "out"), *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "* Nobody has tried an attack that knows the paper's detector on DNN, ensemble" in said
    assert all(len(line) <= 80 for line in said[:-1])
    assert said[-1] == f"The whole story, with audio: {tmp_path}/out/report.html"
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<audio") == 2 and len(list((tmp_path / "out/figures").glob("example_*.png"))) == 1
    assert "attack/a.wav</code>" in page and "attack_pgd_eps0.02/a.wav</code>" in page  # what is played has a name
    assert "attack 40" not in page  # the data are of another run
    again = [*options[:-2], "--num-examples", "0"]
    assert main(["report", str(exp), str(tmp_path / "out"), *again]) == 0
    assert (tmp_path / "out/RESULTS").read_text().startswith(f"# {COMMAND}\n")  # the one that the earlier report names


# figures


def lines_of(figure: Any, panel: int) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[panel].lines}


def test_accuracy_figure_draws_the_rows(run: Run) -> None:
    figure = plots.accuracy_figure(run.plain[run.plain["attack"] == "pgd"], title="pgd")
    target = lines_of(figure, 0)["DNN"]
    assert target.get_xdata().tolist() == [0.02, 0.05] and target.get_ydata().tolist() == [0.8, 0.8]
    assert lines_of(figure, 1)["ensemble"].get_ydata().tolist() == [-0.125, -0.125]


def test_model_has_the_same_colour_whichever_models_are_there(run: Run) -> None:
    rows = run.plain[run.plain["attack"] == "pgd"]
    both = lines_of(plots.accuracy_figure(rows, title=""), 0)["ensemble"].get_color()
    alone = plots.accuracy_figure(rows[rows["model"] == "ensemble"], title="")
    assert lines_of(alone, 0)["ensemble"].get_color() == both
    assert len({plots.model_style(name, ["a", "b", "dnn"]) for name in ("a", "b", "dnn")}) == 3


def test_histogram_shares_sum_to_one_in_both_sets() -> None:
    names = ("max_predictive_entropy",)
    (axes,) = plots.histogram_figure(sample(1, 0), sample(2, 1, 25), fit=sample(3, 0), names=names).axes
    filled = [container for container in axes.containers if len(container) > 1]
    heights = [sum(bar.get_height() for bar in bars) for bars in filled]
    assert heights == pytest.approx([1.0, 1.0])


def test_roc_legend_states_the_area() -> None:
    figure = plots.roc_figure({"max_akld": (np.array([0.0, 1.0]), np.array([1.0, 2.0]))})
    assert "max aKLD (0.875)" in lines_of(figure, 0)


def test_entropy_figure_puts_frames_and_words_on_one_time_axis() -> None:
    figure = entropy_figure(make_example())
    attacked = {line.get_label(): line for line in figure.axes[2].lines}["attacked"]
    np.testing.assert_allclose(np.asarray(attacked.get_xdata())[:2], [0.005, 0.015])
    words = {text.get_text(): text.get_position()[0] for text in figure.axes[3].texts}
    assert words == pytest.approx({"one": 0.25, "two": 0.7, "six": 0.5})
    labels = [label.get_text() for label in figure.axes[3].get_yticklabels()]
    assert labels == ["heard", "said"]  # no target alignment was given
    bare = entropy_figure(make_example(attacked_entropy=(), original_words=(), hypothesis_words=()))
    assert len(bare.axes) == 3 and bare.axes[0].get_xlim() == (0, 1)  # original, attacked, colours


def test_spectrograms_name_the_audio_and_have_a_scale() -> None:
    figure = entropy_figure(make_example())
    titles = [axes.get_title(loc="left") for axes in figure.axes[:2]]
    assert titles == ["original audio: test<003>", "attacked audio: test<003>, DNN under pgd, eps 0.02"]
    assert [axes.get_ylabel() for axes in figure.axes[:2]] == ["frequency, kHz"] * 2
    assert figure.axes[3].get_xlabel() == "time, seconds" and figure.axes[-1].get_ylabel() == "level, dB SPL"
    again = entropy_figure(make_example(compare=False))  # of an utterance whose original was shown
    assert again.axes[0].get_title(loc="left").startswith("attacked audio")
    assert len(again.axes) == len(figure.axes) - 1


def test_silence_has_a_spectrogram() -> None:
    figure = entropy_figure(make_example(attacked_samples=np.zeros(800)))
    assert np.isfinite(np.asarray(figure.axes[1].images[0].get_array())).all()


def test_wav_holds_the_samples_in_16_bits() -> None:
    with wave.open(io.BytesIO(wav_bytes(np.array([0.0, 0.5, -1.0, 1.0, 2.0]), 8000))) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 8000)
        assert np.frombuffer(file.readframes(5), "<i2").tolist() == [0, 16384, -32768, 32767, 32767]


def test_time_frequency_and_level_are_those_of_the_audio() -> None:
    figure = perturbation_figure(perturbed())
    panel = figure.axes[0]
    picture = np.asarray(panel.images[0].get_array())
    left, right, low, high = panel.images[0].get_extent()
    assert (low, high) == (0, 4)
    time = left + (np.arange(picture.shape[1]) + 0.5) * (right - left) / picture.shape[1]
    assert picture[32].max() == pytest.approx(96, abs=0.1)  # 1 kHz
    assert picture[32, (time > 0.52) & (time < 0.98)].min() > 90 and picture[32, time < 0.48].max() < 0
    for axes in figure.axes[:6]:
        assert axes.get_xlim() == (0, 1)


def test_levels_have_one_scale_and_the_excess_one_around_zero() -> None:
    panels = perturbation_figure(perturbed()).axes[:6]
    levels, excess = ((colours["vmin"], colours["vmax"]) for colours in (LEVELS_DB, EXCESS_DB))
    assert [panel.images[0].get_clim() for panel in panels] == [levels, levels, levels, excess, levels, excess]
    assert excess[0] == -excess[1]


def test_heading_says_how_much_is_above_the_threshold() -> None:
    panels = perturbation_figure(perturbed()).axes
    assert panels[3].get_title(loc="left").startswith("against the threshold: 0% above, mean -")
    assert ", mean +" in panels[5].get_title(loc="left")
    assert np.asarray(panels[3].images[0].get_array()).max() < 0 < np.asarray(panels[5].images[0].get_array()).max()
