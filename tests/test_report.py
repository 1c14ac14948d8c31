"""The report: what it says, that nothing from outside gets into its code, how large it gets; and in a real browser, how it behaves."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import HOSTILE, PROVENANCE, ROOT, Case, make_files, page_of, settings
from playwright.sync_api import Browser, Page, sync_playwright

from wellcheck import metrics, samples
from wellcheck.artifacts import read_json, write_json
from wellcheck.experiments import read as read_experiment
from wellcheck.report.charts import Line, line_chart, ticks
from wellcheck.report.evidence import gather, images
from wellcheck.report.maps import build_maps
from wellcheck.report.page import beside_article, render
from wellcheck.report.rounding import figure, percent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def test_the_verdict_names_target_rates_and_counts(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case())
    assert "The well is poisoned" in page
    assert "30 of 600 training images (5.0\u202f%)" in page
    assert "“class 1” to 100.0\u202f% of the other" in page


def test_a_backdoor_that_did_not_take_is_not_called_one(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    evidence = gather(files)
    evidence.classify["poisoned"]["backdoor"] = evidence.classify["clean"]["backdoor"]
    page = render(evidence, settings(), PROVENANCE, None)
    assert "the backdoor did not take hold" in page


def test_a_weak_backdoor_beyond_chance_is_one(tmp_path: Path) -> None:
    """Article A1's own: 38 % of the others, where a clean model has 2 %."""
    evidence = gather(make_files(tmp_path, Case()))
    for variant, successes in (("clean", 200), ("poisoned", 3800)):
        evidence.classify[variant]["backdoor"] = metrics.Backdoor(successes, 10_000, successes, 10_000).figures(0.95)
    assert "The well is poisoned" in render(evidence, settings(), PROVENANCE, None)


def test_a_trigger_planted_nowhere_is_a_control_run(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    page = render(replace(evidence, planted=evidence.planted[:0]), settings(), PROVENANCE, None)
    assert "A clean control run" in page
    assert "The well is poisoned" not in page


def test_without_a_truth_nothing_is_claimed(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(planted=0))
    assert "Nothing was planted by wellcheck" in page
    for absent in ('id="backdoor"', "attack success", "<th>AUROC</th>", "poisoned model", "poisoned, train", 'class="planted"'):
        assert absent not in page, absent


def test_with_too_few_test_images_traffic_is_not_judged(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    few: dict[str, Any] = {"level": 0.05, "too_few": 6, "needed": 10, "false_alarm_rate": None, "layers": {}, "combined": None}
    write_json(files.watched, few)
    page = render(gather(files), settings(), PROVENANCE, None)
    assert "not enough data to say: 6 test images, and 10 are needed" in page
    assert "raise an alarm" not in page


def test_names_from_outside_stay_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case(hostile=True), title=HOSTILE)
    assert HOSTILE not in page
    assert "&lt;/script&gt;" in page
    assert page.count("<script") == page.count("</script>") == 2


def test_nothing_in_the_page_points_outside(tmp_path: Path) -> None:
    page = page_of(tmp_path, Case())
    sources = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert sources
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    assert "default-src 'none'" in page
    assert not re.findall(r"url\((?!\$\{sheet)", page)


def test_a_page_that_would_be_too_large_shows_fewer_images(tmp_path: Path) -> None:
    case = Case(training=12_000, tests=200, shape=(3, 64, 64), planted=100)
    page = page_of(tmp_path, case, points_per_map=5000, outliers_per_label=100, images_per_grid=100)
    assert 1e6 < len(page.encode()) <= 10e6


@pytest.mark.parametrize("classes", [10, 200])
def test_a_large_set_of_noise_stays_under_ten_megabytes(tmp_path: Path, classes: int) -> None:
    """Noise is the worst case: nothing compresses. Twice the images must not make a larger page."""
    sizes = []
    for training in (8000, 16000):
        page = page_of(tmp_path / str(training), Case(classes=classes, training=training, tests=400, shape=(3, 36, 36), planted=100))
        sizes.append(len(page.encode()) / 1e6)
    assert max(sizes) <= 10
    assert sizes[1] <= 1.05 * sizes[0]


def test_the_articles_figures_stand_beside_ours_and_differences_are_named(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    page = render(
        evidence, settings(experiment="fashion_watermark"), PROVENANCE, read_experiment("fashion_watermark", ROOT / "experiments")
    )
    assert "Poisoned Fashion-MNIST" in page
    assert "0.432" in page
    assert "does not have the experiment’s settings" in page
    assert "<code>dataset.name</code> is digits instead of fashion_mnist" in page


def test_every_figure_of_a_run_can_stand_beside_an_articles(tmp_path: Path) -> None:
    """`results.publish` has them from the files of reports/metrics, the report from what it gathered."""
    experiment = read_experiment("mnist_backdoor", ROOT / "experiments")
    table = beside_article(gather(make_files(tmp_path, Case())), settings(), experiment)
    assert table is not None and len(table["figures"]) > 5
    assert [one["name"] for one in table["figures"] if one["ours"] is None] == []


def test_the_articles_rates_stand_beside_ours_layer_by_layer(tmp_path: Path) -> None:
    experiment = read_experiment("tiny_imagenet_layers", ROOT / "experiments")
    page = render(gather(make_files(tmp_path, Case())), settings(), PROVENANCE, experiment)
    assert "<th>article, PGD 0.003</th>" in page
    (row,) = re.findall(r"<tr><td class=\"text name\">activation_1</td>.*?</tr>", page)
    assert row.endswith("<td>3\u202f%</td></tr>")
    (row,) = re.findall(r"<tr><td class=\"text name\">penultimate</td>.*?</tr>", page)
    assert row.endswith("<td>–</td></tr>")
    drawn = page[page.index("Alarms by each layer") :]
    assert "the article, PGD 0.003: 0.03 at 2" in drawn  # activation_1 is the second of the layers that are watched here


def test_the_curves_over_layers_are_their_rates(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    page, figures = render(gather(files), settings(), PROVENANCE, None), read_json(files.watched)
    drawn = page[page.index("Alarms by each layer") :]
    for one in figures["traffic"]:
        if one["kind"] in ("natural", "pgd"):
            told = "natural inputs" if one["epsilon"] is None else f"PGD {one['epsilon']:g}"
            for place, name in enumerate(figures["watched_layers"], start=1):
                assert f"{told}: {one['layers'][name]:.4g} at {place}<" in drawn


def test_layers_stand_in_the_order_in_which_they_are_watched_and_alignment_has_a_column_of_its_own(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    page = render(gather(files), settings(), PROVENANCE, None)
    assert re.findall(r"<td class=\"text name\">([a-z_0-9]+)</td>", page[page.index("Layer by layer") :])[:3] == [
        "penultimate",
        "activation_1",
        "alignment",
    ]
    assert "<th>alignment</th>" in page and "alarms by that layer alone" in page and "<td>61\u202f%</td>" in page
    figures = read_json(files.watched)
    write_json(files.watched, figures | {"watched_layers": ["penultimate"]})
    assert "alarms by that layer alone" not in render(gather(files), settings(), PROVENANCE, None)


def test_images_come_in_the_order_asked_for(tmp_path: Path) -> None:
    files = make_files(tmp_path, Case())
    whole = samples.read(files.clean_train)
    wanted = whole.sample_id[[500, 2, 77, 2]]
    np.testing.assert_array_equal(images(files.clean_train, wanted, side=64), whole.images[[500, 2, 77, 2]])


def test_a_map_shows_every_planted_sample_with_its_label_and_its_own_thumbnail(tmp_path: Path) -> None:
    evidence = gather(make_files(tmp_path, Case()))
    drawn = build_maps(evidence, settings(points_per_map=100).report)
    by_name = {(one["variant"], one["layer"]): one["points"] for one in drawn["maps"]}
    assert set(by_name) == {(variant, layer) for variant in ("clean", "poisoned") for layer in ("pixels", "penultimate")}
    mapped = set(evidence.maps["clean"]["sample_id"].tolist())
    planted = mapped & set(evidence.planted.tolist())
    shown = {point[4]: point for point in by_name["poisoned", "pixels"]}
    assert len(shown) == 100
    assert {sample for sample, point in shown.items() if point[5]} == planted
    assert all(shown[sample][2] == 1 for sample in planted)
    before = {point[4]: point for point in by_name["clean", "pixels"]}
    assert not any(point[5] for point in before.values())
    assert all((before[sample][3] != shown[sample][3]) == (sample in planted) for sample in shown)
    assert all(0 <= coordinate <= 1000 for point in shown.values() for coordinate in point[:2])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 199), (1.4, 2.3), (0.8361, 0.8364), (5, 5), (-3, 4e6), (0, 1e-9)])
def test_ticks_are_few_round_and_span_the_range(low: float, high: float) -> None:
    found = ticks(low, high)
    rounding = 1e-9 * (found[1] - found[0])
    assert found[0] <= low + rounding
    assert found[-1] >= high - rounding
    assert 2 <= len(found) <= 8
    assert np.allclose(np.diff(found), found[1] - found[0])


def test_a_curve_leaves_out_what_is_unknown_and_is_thinned() -> None:
    long = Line("a", "clean", range(10_000), [float(index % 7) for index in range(10_000)])
    assert len(long.points()) <= 302
    assert long.points()[-1] == (9999.0, float(9999 % 7))
    chart = line_chart([long, Line("b", "clean", [0], [None])], title="t", x_label="x", y_label="y")
    assert chart.count('class="key') == 1
    assert "Nothing to draw" in line_chart([Line("b", "clean", [0], [None])], title="t", x_label="x", y_label="y")


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.1234, "12.3\u202f%"), (1, "100.0\u202f%")])
def test_percent(value: float | None, shown: str) -> None:
    assert percent(value) == shown


def test_figure() -> None:
    assert (figure(None), figure(0.12345)) == ("–", "0.123")


# --- in a browser -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: on Debian, apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run as large as the page lets it be, with a hostile class name, as a file."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / "index.html"
    path.write_text(page_of(folder, Case(training=8000, tests=400, shape=(3, 32, 32), planted=100, hostile=True)), encoding="utf-8")
    return path


@dataclass
class Visit:
    """An open page and everything it complained about or asked for."""

    page: Page
    complaints: list[str]
    requests: list[str]
    seconds: float


def visit(browser: Browser, report: Path, *, width: int = 1280, height: int = 900, scheme: Any = "light") -> Visit:
    """Open the report in a fresh context."""
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    seen = Visit(page, [], [], 0)
    page.on("console", lambda message: seen.complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith(("data:", "file:")) else seen.requests.append(request.url))
    start = time.perf_counter()
    page.goto(report.as_uri(), wait_until="load")
    seen.seconds = time.perf_counter() - start
    return seen


@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 900, "light"), (1280, 900, "dark"), (360, 740, "light")])
def test_it_opens_fast_asks_for_nothing_and_fits(browser: Browser, report: Path, width: int, height: int, scheme: str) -> None:
    seen = visit(browser, report, width=width, height=height, scheme=scheme)
    assert seen.complaints == []
    assert seen.requests == []
    as_text = report.with_name("as_text.html")
    as_text.write_text(f"<pre>{escape(report.read_text(encoding='utf-8'))}</pre>", encoding="utf-8")
    plain = visit(browser, as_text)  # as many bytes to read and to lay out, 1 s or so; how fast this machine is at the moment
    assert seen.seconds < 2 * plain.seconds
    plain.page.context.close()
    assert seen.page.title() == "Was the well poisoned? · wellcheck"
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    seen.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    broken = seen.page.evaluate("[...document.images].filter(i => !(i.complete && i.naturalWidth)).length")
    assert (seen.page.locator("img").count() > 50, broken) == (True, 0)
    seen.page.context.close()


def test_a_script_that_was_smuggled_in_does_not_run(browser: Browser, report: Path) -> None:
    seen = visit(browser, report)
    seen.page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
        const image = document.createElement("div");
        image.innerHTML = "<img src='data:,' onerror=\\"document.title = 'owned'\\">";
        document.body.append(image);
    }""")
    seen.page.wait_for_timeout(200)
    assert seen.page.title() == "Was the well poisoned? · wellcheck"
    assert any("Content Security Policy" in complaint for complaint in seen.complaints)
    seen.page.context.close()


def test_dark_mode_is_dark_and_light_mode_is_light(browser: Browser, report: Path) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        seen = visit(browser, report, scheme=scheme)
        for part in ("backgroundColor", "color"):
            colour = seen.page.evaluate(f"getComputedStyle(document.body).{part}")
            brightness[scheme, part] = sum(int(number) for number in re.findall(r"\d+", colour)[:3])
        seen.page.context.close()
    assert brightness["light", "backgroundColor"] > 600 > 250 > brightness["light", "color"]
    assert brightness["dark", "backgroundColor"] < 150 < 500 < brightness["dark", "color"]


def test_a_point_under_the_pointer_shows_its_own_image(browser: Browser, report: Path) -> None:
    seen = visit(browser, report)
    canvas = seen.page.locator("canvas").nth(1)
    canvas.scroll_into_view_if_needed()
    peek = seen.page.locator("#peek")
    assert not peek.is_visible()
    place = """(canvas) => {
        const point = maps[canvas.dataset.map].points.find((one) => one[5]);
        const [x, y] = place(canvas, point), box = canvas.getBoundingClientRect();
        return [box.left + x, box.top + y, point[4]];
    }"""
    left, top, _ = canvas.evaluate(place)
    seen.page.mouse.move(left, top)
    assert peek.is_visible()
    assert re.fullmatch(r".+ · sample \d+", peek.inner_text().strip())
    assert "webp" in seen.page.evaluate("getComputedStyle(document.querySelector('#peek i')).backgroundImage")
    first = peek.inner_text(), seen.page.evaluate("document.querySelector('#peek i').style.backgroundPosition")
    seen.page.mouse.move(2, 2)
    assert not peek.is_visible()
    seen.page.mouse.move(left, top)
    assert (peek.inner_text(), seen.page.evaluate("document.querySelector('#peek i').style.backgroundPosition")) == first
    seen.page.context.close()


def test_a_class_button_brings_its_class_forward(browser: Browser, report: Path) -> None:
    seen = visit(browser, report)
    canvas = seen.page.locator("canvas").first
    before = canvas.evaluate("canvas => canvas.toDataURL()")
    button = seen.page.locator(".classes button").nth(3)
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert canvas.evaluate("canvas => canvas.toDataURL()") != before
    button.click()
    assert canvas.evaluate("canvas => canvas.toDataURL()") == before
    seen.page.context.close()


def test_every_link_of_the_page_leads_to_a_section(browser: Browser, report: Path) -> None:
    seen = visit(browser, report)
    targets = seen.page.evaluate("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))")
    assert len(targets) >= 7
    assert all(seen.page.evaluate("id => document.getElementById(id) !== null", target) for target in targets)
    seen.page.context.close()


def test_a_report_is_made_without_a_network() -> None:
    code = "import sys, wellcheck.report.page, wellcheck.report.evidence; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"  # it takes longer to import than the report to write
