"""What plays, in a headless Chromium with H.264: videos in step, one sound at a time, from disk and without a network.

Sounds play into nothing (--mute-audio would not change what is asked here: elements, their volume and their time).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffalign.gallery import Column, Comparison, PairRow, Row, Sample
from diffalign.gallery.write import write_gallery
from diffalign.loudness import integrated_lufs as integrated

pytestmark = pytest.mark.browser

FPS, FRAMES = 5.0, 20
HOSTILE = '</script><img src=x onerror="window.broken=1"><script>window.broken=1</script> javascript:alert(1)'
COLOURS = ((200, 40, 40), (40, 90, 200))


@dataclass(frozen=True)
class Clip:
    colour: tuple[int, int, int]
    count: int = FRAMES
    fps: float = FPS

    def frames(self) -> np.ndarray:
        frames = np.full((self.count, 32, 32, 3), self.colour, np.uint8)
        for at in range(self.count):
            frames[at, 2:6, at : at + 4] = 255
        return frames


@dataclass(frozen=True)
class Tone:
    level: float
    seconds: float = 30.0
    sample_rate_hz: int = 16_000

    def waveform(self) -> np.ndarray:
        time = np.arange(round(self.seconds * self.sample_rate_hz)) / self.sample_rate_hz
        return (self.level * np.sin(2 * np.pi * 997 * time))[None]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> str:
    one, other = (Sample(Clip(colour), {"s.a": 0.5}, kind="video") for colour in COLOURS)
    rows = [Row(f"prompt {seed}", seed, (one, other)) for seed in range(12)]
    pairs = [PairRow(HOSTILE, one, other, 0.5, segments=(1, 0, -1, 1), context=HOSTILE), PairRow("no labels", other, one, 0.1)]
    comparison = Comparison((Column("base"), Column("dpo")), rows)
    return write_gallery(tmp_path_factory.mktemp("videos") / "gallery", comparison, pairs, title="videos").as_uri()


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> str:
    loud, quiet = Sample(Tone(0.5), {}, kind="audio"), Sample(Tone(0.125), {}, kind="audio")
    rows = [Row(f"prompt {seed}", seed, (loud, quiet)) for seed in range(3)]
    pairs = [PairRow(HOSTILE, quiet, loud, 0.5, segments=(-1, 1), context="colour")]
    comparison = Comparison((Column("base"), Column("dpo")), rows)
    return write_gallery(tmp_path_factory.mktemp("sounds") / "gallery", comparison, pairs, title="sounds").as_uri()


def write_unequal(folder: Path, kind: str, media: list[Any]) -> str:
    samples = tuple(Sample(each, {}, kind=kind) for each in media)
    comparison = Comparison((Column("base"), Column("dpo")), [Row(f"prompt {seed}", seed, samples) for seed in range(2)])
    return write_gallery(folder / "gallery", comparison, [], title="unequal").as_uri()


def visit(page: Any, address: str) -> None:
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(".row .icon:not([disabled])")


def times(page: Any, where: str = "video") -> list[float]:
    return page.eval_on_selector_all(where, "nodes => nodes.map(node => node.currentTime)")


def playing(page: Any, kind: str) -> list[int]:
    """Places of the elements that run, and of sounds those that are heard."""
    return page.evaluate(
        "kind => [...document.querySelectorAll(kind)].map((node, at) => [node, at])"
        ".filter(([node]) => !node.paused && (kind === 'video' || !node.muted)).map(([node, at]) => at)",
        kind,
    )


def wait_until(page: Any, condition: str) -> None:
    page.wait_for_function(f"() => {condition}")


RUNNING = "[...document.querySelectorAll('{0}')].some(node => !node.paused && node.currentTime > {1})"
# The difference of the first two, now and at the next twelve frames of the screen, the furthest.
APART = """() => new Promise(done => {
  const [one, other] = document.querySelectorAll('video'); let most = 0, left = 12;
  const look = () => {
    most = Math.max(most, Math.abs(one.currentTime - other.currentTime));
    left-- ? requestAnimationFrame(look) : done(most);
  };
  look(); })"""


def test_videos_of_a_row_play_in_step_and_stop_on_one_frame(page: Any, videos: str) -> None:
    visit(page, videos)
    assert page.locator("video").count() == 0  # reduced motion: posters, and nothing plays by itself
    assert page.locator(".item img").first.get_attribute("alt") == "prompt 0"
    row = page.locator(".rows-body .row").first
    row.get_by_role("button", name="Play", exact=True).click()
    wait_until(page, RUNNING.format("video", 0.5))
    assert playing(page, "video") == [0, 1]
    assert page.eval_on_selector_all("video", "nodes => nodes.every(node => node.muted && !node.error && node.videoWidth === 256)")
    assert page.evaluate(APART) < 1 / FPS
    page.evaluate("document.querySelectorAll('video')[1].currentTime += 1")  # pushed away by a second, it comes back
    wait_until(
        page, "Math.abs(document.querySelectorAll('video')[0].currentTime - document.querySelectorAll('video')[1].currentTime) < 0.1"
    )
    row.get_by_role("button", name="Pause").click()
    assert playing(page, "video") == []
    one, other = times(page)
    assert one == other and (one * FPS) % 1 == pytest.approx(0.5, abs=1e-3)  # in the middle of a frame


def test_seek_step_speed_and_loop(page: Any, videos: str) -> None:
    visit(page, videos)
    row = page.locator(".rows-body .row").first
    line = row.get_by_role("slider")
    box = line.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.51, box["y"] + 10)
    wait_until(page, "[...document.querySelectorAll('video')].every(node => node.currentTime > 1 && !node.seeking)")
    assert times(page) == [pytest.approx(10.5 / FPS, abs=1e-6)] * 2
    assert row.locator(".time").inner_text().split() == ["11", "/", "20", "2.00", "s"]
    assert line.get_attribute("aria-valuetext") == "frame 11 of 20, 2.00 s"
    row.get_by_role("button", name="One frame forward").click()
    assert times(page) == [pytest.approx(11.5 / FPS, abs=1e-6)] * 2
    for key, frame in ((",", 10), (",", 9), (".", 10), ("ArrowRight", 11), ("ArrowLeft", 10), ("Home", 0), ("ArrowLeft", 0), ("End", 19)):
        line.press(key)
        assert times(page) == [pytest.approx((frame + 0.5) / FPS, abs=1e-6)] * 2, key
    loop = row.get_by_role("button", name="Loop")
    assert loop.get_attribute("aria-pressed") == "true"
    line.press("l")
    assert loop.get_attribute("aria-pressed") == "false"
    row.get_by_label("Speed").select_option("2")
    line.press("Home")
    for _ in range(17):
        line.press(".")
    line.press(" ")
    wait_until(
        page, "[...document.querySelectorAll('video')].every(node => node.paused && node.currentTime > 3.8)"
    )  # the end, and it stays
    row.get_by_role("button", name="Play", exact=True).wait_for()
    assert page.eval_on_selector_all("video", "nodes => nodes[0].playbackRate") == 2


def test_videos_play_in_sight_only_where_motion_is_welcome(page: Any, videos: str) -> None:
    page.emulate_media(reduced_motion="no-preference")
    visit(page, videos)
    wait_until(page, RUNNING.format("video", 0))
    near = page.locator("video").count()
    assert 2 <= near < 24  # of twelve rows only those in the window
    page.locator(".item[data-row='11']").first.scroll_into_view_if_needed()
    wait_until(page, "document.querySelector(\".item[data-row='11'] video\") && !document.querySelector(\".item[data-row='0'] video\")")
    assert page.locator("video").count() < 24
    page.get_by_label("Autoplay").uncheck()
    assert playing(page, "video") == [] and page.url.endswith("#compare?autoplay=")
    visit(page, page.url)
    page.wait_for_timeout(300)
    assert page.locator("video").count() == 0


def test_colours_are_the_source_s_and_the_lightbox_has_the_same_controls(page: Any, videos: str) -> None:
    visit(page, videos + "#compare?row=3")
    panes = page.locator(".pane:visible .view")
    page.keyboard.press(" ")
    wait_until(page, RUNNING.format(".own video", 0.2))
    page.keyboard.press(" ")
    assert playing(page, "video") == []
    page.keyboard.press(".")
    at = times(page, ".pane:not([hidden]) .own video")
    assert len(at) == 2 and at[0] == at[1] > 0.2
    wait_until(page, "[...document.querySelectorAll('video')].every(node => !node.seeking)")
    for number, colour in enumerate(COLOURS):
        with Image.open(BytesIO(panes.nth(number).screenshot())) as shot:
            pixels = np.asarray(shot.convert("RGB")).astype(int)
        middle = pixels[len(pixels) // 2 :, pixels.shape[1] // 4 : -pixels.shape[1] // 4]
        assert np.abs(middle.mean(axis=(0, 1)) - colour).max() < 8
    page.keyboard.down("b")
    assert page.locator(".pane:visible .under video").is_visible()
    page.keyboard.up("b")
    page.keyboard.press("s")  # the slider keeps the moment
    wait_until(page, "[...document.querySelectorAll('.slide video')].filter(node => node.readyState > 1).length === 2")
    assert times(page, ".slide video") == [pytest.approx(at[0], abs=1e-6)] * 2
    page.keyboard.press("ArrowRight")
    assert page.locator(".lightbox-prompt").inner_text() == "prompt 4"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.locator("video").count() == 0


def test_segments_and_context_of_a_pair_are_shown_as_text(page: Any, videos: str) -> None:
    visit(page, videos + "#pairs")
    band = page.locator(".band")
    assert band.count() == 1
    label = "Judged by segment: 1 chosen better, 2 neither better, 3 rejected better, 4 chosen better"
    assert page.get_by_role("img", name=label).count() == 1
    assert band.locator("span").all_inner_texts() == ["▲", "=", "▼", "▲"]
    colours = band.locator("span").evaluate_all("spans => spans.map(span => getComputedStyle(span).backgroundColor)")
    assert len(set(colours)) == 3 and colours[0] == colours[3]
    widths = band.locator("span").evaluate_all("spans => spans.map(span => span.getBoundingClientRect().width)")
    assert max(widths) - min(widths) < 1
    assert page.locator(".context").all_inner_texts() == [f"wrong: {HOSTILE}"]
    assert page.evaluate("window.broken") is None and page.locator("img[src=x], main script").count() == 0
    visit(page, videos + "#pairs?row=0")
    assert page.locator("dialog .band").count() == 1 and page.locator("dialog .context").count() == 1


def test_segments_of_sounds_stand_under_each_in_the_table_and_once_in_the_lightbox(page: Any, sounds: str) -> None:
    visit(page, sounds + "#pairs")
    label = "Judged by segment: 1 rejected better, 2 chosen better"

    def signs(where: str) -> list[list[str]]:
        page.locator(where).first.wait_for()
        bands = page.locator(where)
        assert bands.count() == page.locator(where.replace(".band", f'[aria-label="{label}"]')).count()
        return [bands.nth(at).locator("span").all_inner_texts() for at in range(bands.count())]

    assert signs(".rows-body .band") == [["▼", "▲"], ["▼", "▲"]]
    tracks = page.locator(".rows-body .track")
    for at in range(2):  # as wide as the sound over it, its halves under the sound's halves
        track, band = tracks.nth(at).bounding_box(), page.locator(".rows-body .band").nth(at).bounding_box()
        assert abs(band["x"] - track["x"]) < 2 and abs(band["width"] - track["width"]) < 4 and band["y"] >= track["y"] + track["height"] - 2
    visit(page, sounds + "#pairs?row=0")
    assert signs("dialog .band") == [["▼", "▲"]]
    visit(page, sounds)
    assert page.locator(".band").count() == 0  # of a comparison nothing was judged by segment


def test_one_sound_plays_in_the_whole_page_at_its_matched_level(page: Any, sounds: str) -> None:
    visit(page, sounds)
    loud = integrated(Tone(0.5).waveform(), 16_000)
    assert page.locator(".rows-body .level").all_inner_texts()[:2] == [f"−{-loud:.1f} LUFS", f"−{12.04 - loud:.1f} LUFS\n▼−12.0 LU"]
    rows = page.locator(".rows-body .row")
    rows.nth(0).get_by_role("button", name="Play base").click()
    wait_until(page, RUNNING.format("audio", 0.3))
    assert playing(page, "audio") == [0]
    volumes = page.eval_on_selector_all("audio", "nodes => nodes.map(node => node.volume)")
    assert volumes == [pytest.approx(0.25, abs=1e-3), 1]
    page.get_by_label("Loudness matched").uncheck()
    assert page.eval_on_selector_all("audio", "nodes => nodes.map(node => node.volume)") == [1, 1]
    assert playing(page, "audio") == [0] and page.url.endswith("#compare?loudness=")
    rows.nth(0).get_by_role("button", name="Play dpo").click()  # the other, at the same moment
    assert playing(page, "audio") == [1]
    one, other = times(page, "audio")
    assert one == pytest.approx(other, abs=0.2) and one > 0.3
    rows.nth(1).get_by_role("button", name="Play base").click()
    wait_until(page, RUNNING.format(".rows-body .row:nth-child(2) audio", 0.1))
    assert page.locator("audio").count() == 2 and len(playing(page, "audio")) == 1  # the first row's are gone
    rows.nth(1).get_by_role("button", name="Pause base").click()
    assert playing(page, "audio") == []


def test_a_click_on_a_sound_seeks_and_the_lightbox_switches_at_the_same_moment(page: Any, sounds: str) -> None:
    visit(page, sounds + "#compare?row=1")
    track = page.locator(".pane .track")
    track.nth(1).scroll_into_view_if_needed()
    box = track.nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.8)
    assert float(track.nth(1).get_attribute("aria-valuenow")) == pytest.approx(15, abs=0.2)
    assert track.nth(1).get_attribute("aria-valuetext").endswith("s of 30.00 s")
    buttons = page.locator(".mode")
    assert buttons.evaluate_all("nodes => nodes.map(node => node.ariaPressed)") == ["false", "true"]
    page.keyboard.press("Home")
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert float(track.nth(0).get_attribute("aria-valuenow")) == pytest.approx(29.95, abs=1e-3)
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    page.locator(".stage").focus()
    page.keyboard.press(" ")
    wait_until(page, RUNNING.format("audio", 3.2))
    assert playing(page, "audio") == [1]
    page.keyboard.press("b")
    assert playing(page, "audio") == [0]
    one, other = times(page, "audio")
    assert one == pytest.approx(other, abs=0.2) and one > 3.2
    assert buttons.evaluate_all("nodes => nodes.map(node => node.ariaPressed)") == ["true", "false"]
    page.keyboard.press("2")
    page.keyboard.press(" ")
    assert playing(page, "audio") == []
    page.keyboard.press("ArrowRight")
    assert page.locator(".lightbox-prompt").inner_text() == "prompt 2"
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    assert page.evaluate("document.activeElement.dataset.row") == "2" and page.locator("audio").count() == 0


def test_no_width_scrolls_sideways_and_nothing_moves_while_it_loads(page: Any, videos: str, sounds: str) -> None:
    page.add_init_script(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(entry => { window.shift += entry.value; }))"
        ".observe({type: 'layout-shift', buffered: true});"
    )
    page.set_viewport_size({"width": 390, "height": 844})
    for address in (videos, videos + "#pairs?row=0", sounds, sounds + "#pairs", sounds + "#compare?row=1"):
        visit(page, address)
        page.wait_for_timeout(150)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, address
        assert page.evaluate("window.shift") < 0.02, address


@pytest.mark.parametrize("counts", [(12, 16), (16, 12)], ids=["shorter first", "longer first"])
def test_a_shorter_video_stays_on_its_last_frame_while_the_longer_goes_on(page: Any, tmp_path: Path, counts: tuple[int, int]) -> None:
    visit(page, write_unequal(tmp_path, "video", [Clip(colour, count) for colour, count in zip(COLOURS, counts, strict=True)]))
    row = page.locator(".rows-body .row").first
    line = row.get_by_role("slider")

    def assert_at(frame: int) -> None:
        page.wait_for_function("() => [...document.querySelectorAll('video')].every(node => node.readyState > 0 && !node.seeking)")
        for time, count in zip(times(page), counts, strict=True):
            if frame < count - 1:
                assert time == pytest.approx((frame + 0.5) / FPS, abs=1e-6)
            else:  # in its last frame: a browser goes on to the end of it
                assert (count - 1) / FPS < time <= count / FPS + 1e-6
        assert row.locator(".time").inner_text().split()[:3] == [str(frame + 1), "/", "16"]

    line.press("End")
    assert_at(15)
    for key, frame in ((",", 14), (",", 13), (",", 12), (",", 11), (",", 10), (".", 11), (".", 12), (".", 13), ("Home", 0)):
        line.press(key)
        assert_at(frame)
    box = line.bounding_box()
    for share, frame in ((0.91, 14), (0.28, 4)):  # past the end of the shorter, and back
        page.mouse.click(box["x"] + box["width"] * share, box["y"] + 10)
        assert_at(frame)
    line.press("l")  # once through, to the end of the longer
    row.get_by_label("Speed").select_option("2")
    line.press(" ")
    wait_until(page, "[...document.querySelectorAll('video')].every(node => node.paused && node.currentTime > 2.2)")
    row.get_by_role("button", name="Play", exact=True).wait_for()
    assert_at(15)


def click_at(page: Any, track: Any, share: float) -> None:
    track.scroll_into_view_if_needed()
    box = track.bounding_box()
    page.mouse.click(box["x"] + box["width"] * share, box["y"] + box["height"] * 0.8)


def test_past_the_end_of_a_shorter_sound_its_line_stays_full(page: Any, tmp_path: Path) -> None:
    visit(page, write_unequal(tmp_path, "audio", [Tone(0.5, 2.0), Tone(0.25, 3.0)]) + "#compare?row=0")
    tracks = page.locator(".pane .track")

    def values() -> list[float]:
        return [float(tracks.nth(at).get_attribute("aria-valuenow")) for at in range(2)]

    assert [tracks.nth(at).get_attribute("aria-valuemax") for at in range(2)] == ["2", "3"]
    click_at(page, tracks.nth(1), 0.75)
    assert values() == [2, pytest.approx(2.25, abs=0.05)]
    for key, time in (("End", 3), ("ArrowLeft", 2.95), ("PageDown", 2.65), ("PageDown", 2.35), ("PageDown", 2.05), ("PageDown", 1.75)):
        page.keyboard.press(key)
        assert values() == [pytest.approx(min(time, 2)), pytest.approx(time)], key
    click_at(page, tracks.nth(0), 0.5)
    assert values() == [pytest.approx(1, abs=0.05)] * 2


def test_a_shorter_sound_is_over_while_the_longer_goes_on_and_comes_back_with_it(page: Any, tmp_path: Path) -> None:
    """Long ones, so that none ends while it is looked at."""
    visit(page, write_unequal(tmp_path, "audio", [Tone(0.5, 20.0), Tone(0.25, 30.0)]) + "#compare?row=0")
    longer = page.locator(".pane .track").nth(1)
    click_at(page, longer, 0.75)
    longer.press(" ")
    wait_until(page, RUNNING.format("audio", 22.6))
    assert playing(page, "audio") == [1] and page.eval_on_selector_all("audio", "nodes => nodes[0].paused && nodes[0].currentTime <= 20")
    click_at(page, longer, 0.1)  # back to where both have something
    wait_until(page, "[...document.querySelectorAll('audio')].every(node => !node.paused && node.currentTime > 3.2)")
    assert playing(page, "audio") == [1]
    page.locator(".stage").focus()
    page.keyboard.press("b")  # the shorter is heard, at the same moment
    assert playing(page, "audio") == [0]
    one, other = times(page, "audio")
    assert one == pytest.approx(other, abs=0.2) and 3.2 < one < 20
    longer.press("End")  # what is heard is over
    wait_until(page, "[...document.querySelectorAll('audio')].every(node => node.paused)")
    longer.press("Home")
    wait_until(page, "[...document.querySelectorAll('.pane .track')].every(node => Number(node.ariaValueNow) === 0)")
