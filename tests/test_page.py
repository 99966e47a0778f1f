"""The page in a real browser: on a wide and a narrow screen, light and dark, without a network."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kaldi_uq.report.build import build_report
from kaldi_uq.report.examples import Perturbed
from kaldi_uq.results.table import Results
from tests.report import attack_row, detection_row, make_example, write_exp

pytestmark = pytest.mark.long

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# as root, as in a container, there is no sandbox; sound is played to nobody
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--autoplay-policy=no-user-gesture-required"]
SCREENS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
JOINT: dict[str, Any] = {"detector": "joint", "sided": "two", "fpr": 0.01, "reached": 0.75, "evasion": 0.5}
COUNTED = {"tpr_at_threshold": 0.25, "fpr_at_threshold": 0.01, "passed_right": 0.125, "benign_passed_right": 0.9}
TRIES = [("A long command", ["kaldi-uq attack " + "a-very-long-name/" * 12 + "a.wav \\\n  --force"])]


@dataclass
class Tab:
    """An open page and what went wrong in it."""

    page: Any
    problems: list[str] = field(default_factory=list)

    def ask(self, script: str) -> Any:
        return self.page.evaluate(script)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every part that a page can have: the picture, examples with sound, wide tables, curves, commands."""
    exp = write_exp(tmp_path_factory.mktemp("a place") / "exp")
    results = Results(exp / "results.json")
    for model in ("dnn", "dnn-robust"):
        results.add_attack(attack_row(model, "pgd", 0.02) | {"target_success": 0.75})
        results.add_detection([detection_row(model, "pgd", 0.02, "all", 0.9, **JOINT) | COUNTED])
        checks = {f"a_check_{n}": {"passed": bool(n), "value": n, "limit": 1.0, "remedy": "mend it"} for n in range(3)}
        results.set_checks(model, checks)
    negative = {"model": "dnn", "kind": "white", "num_utts": 9, "accuracy": 1.0, "sided": "two", "fpr": 0.01}
    for number in range(12):  # a table that is wider than any screen
        row = {"statistic": f"a_statistic_with_a_name_{number}", "level": 10.0, "fpr_at_threshold": 0.5, "auroc": []}
        results.add_negatives([negative | row])
    time = np.arange(8000) / 8000
    sound = 0.5 * np.sin(2 * np.pi * 1000 * time)
    perturbed = Perturbed("utt", "dnn", 8000, sound, {"pgd": sound + 0.01 * np.cos(2 * np.pi * 3000 * time)})
    judged = {"original_verdict": (0.5, 1.0), "attacked_verdict": (4.19, 1.0), "detector": "all-joint"}
    example = make_example(**judged, original_path="data/a.wav", attacked_path="exp/" + "long/" * 30 + "a.wav")
    out = exp.parent / "report"
    path = build_report(exp, out, command="run.sh", tries=TRIES, examples=[example], perturbed=[perturbed])
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path; apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'kaldi-uq[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=SCREENS, ids=lambda screen: f"{screen[0]}-{screen[1]}")
def tab(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Tab]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab = Tab(context.new_page())
    tab.page.on("console", lambda message: tab.problems.append(message.text) if message.type == "error" else None)
    tab.page.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.page.on("request", lambda request: tab.problems.append(request.url[:99]) if is_outside(request.url) else None)
    tab.page.goto(address)
    tab.ask("document.querySelectorAll('details').forEach(d => d.open = true)")
    yield tab
    context.close()


def is_outside(url: str) -> bool:
    return not url.startswith(("file:", "data:"))


def test_page_holds_together(tab: Tab) -> None:
    width = tab.page.viewport_size["width"]
    assert tab.ask("document.documentElement.scrollWidth") <= width  # what is wider scrolls within itself
    assert tab.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.ask("document.images.length") >= 6
    # every link leads somewhere, and every section can be reached
    targets = tab.ask("[...document.links].map(link => link.getAttribute('href'))")
    assert targets and all(tab.ask(f"!!document.querySelector('{target}')") for target in targets)
    tab.page.click(f"a[href='{targets[-1]}']")
    assert tab.page.url.endswith(targets[-1])
    tab.page.wait_for_timeout(100)
    assert tab.problems == []


def test_audio_plays(tab: Tab) -> None:
    assert tab.ask("document.querySelectorAll('audio').length") == 2
    for number in range(2):
        audio = f"document.querySelectorAll('audio')[{number}]"
        tab.ask(f"(async () => {{ {audio}.muted = true; await {audio}.play(); }})()")
        tab.page.wait_for_function(f"{audio}.readyState >= 3 && {audio}.currentTime > 0", timeout=20_000)
        assert tab.ask(f"{audio}.duration") == pytest.approx(1.0, abs=0.01)
        assert tab.ask(f"{audio}.error") is None
        assert tab.ask(f"{audio}.getBoundingClientRect().right") <= tab.page.viewport_size["width"]
    assert tab.ask("[...document.querySelectorAll('.verdict')].map(v => v.innerText)") == [
        "benign, score 0.5 ≤ threshold 1", "ATTACK, score 4.19 > threshold 1"
    ]  # fmt: skip
    assert tab.problems == []


def test_names_of_rows_stay_in_sight(tab: Tab) -> None:
    """However far a table is scrolled, its first column is there and leaves room for another."""
    found = tab.ask(
        """[...document.querySelectorAll('.table .scroll')].filter(b => b.scrollWidth > b.clientWidth).map(box => {
          box.scrollLeft = box.scrollWidth;
          const cell = box.querySelector('tbody th').getBoundingClientRect(), frame = box.getBoundingClientRect();
          return [box.scrollLeft, cell.left - frame.left, cell.width / frame.width];
        })"""
    )
    assert found and all(moved > 0 and -1 <= left <= 3 and share < 0.7 for moved, left, share in found), found


def test_text_can_be_read_and_pictures_suit_the_screen(tab: Tab) -> None:
    dark = tab.ask("matchMedia('(prefers-color-scheme: dark)').matches")
    for element in ("body", "main .note", "nav a", "thead th", ".verdict", "pre code", "summary"):
        colours = tab.ask(
            f"""(() => {{ let node = document.querySelector('{element}'); const ink = getComputedStyle(node).color;
            while (getComputedStyle(node).backgroundColor === 'rgba(0, 0, 0, 0)') node = node.parentElement;
            return [ink, getComputedStyle(node).backgroundColor]; }})()"""
        )
        assert contrast(*colours) >= 4.5, (element, colours)
    picture = tab.page.locator("#answer img")
    assert (mean_luminance(picture.screenshot()) < 110) == dark
    # a telephone has a picture of its own, in which the two attackers stand one below the other
    box = picture.bounding_box()
    assert (box["height"] > box["width"]) == (tab.page.viewport_size["width"] < 700)


def contrast(*colours: str) -> float:
    """The contrast of two colours such as ``rgb(1, 2, 3)``, from 1 to 21 (WCAG 2)."""
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    values = np.array([float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]])
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def mean_luminance(png: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(png)).convert("L")).mean())
