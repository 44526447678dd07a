from __future__ import annotations

import dataclasses
import weakref
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from decoded import watch
from small_road import COLOURS, finish_until_pair, make_candidates, make_config, pairs_of, save_tiny_pipeline
from tiny_timed import save_tiny_tango

from diffalign.backbones.stable_diffusion import StableDiffusion
from diffalign.data.latents import LatentCache
from diffalign.data.modalities.audio import Audio
from diffalign.data.modalities.image import Image, fit
from diffalign.data.modalities.video import Video
from diffalign.data.records import Candidate, Preference, write_candidates
from pipelines.config import Config
from pipelines.encode import covered_share, plan_shards, posterior_seed, run, sizes_of
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.stage import summary_of

QUIET = Progress(silent=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("model") / "tiny")


def make_run(tmp_path: Path, model: Path, *, name: str = "run", sides: tuple[int, ...] = (16,), **encode: object) -> Config:
    config = make_config(tmp_path / name, model, encode={"candidates_per_shard": 4, "batch_size": 3, **encode})
    candidates = make_candidates(12, sides=sides)
    finish_until_pair(config, candidates, pairs_of(candidates)[:-1])  # the last group has no preference
    return config


def pixels(candidate: object) -> torch.Tensor:
    return torch.from_numpy(np.array(candidate.media.pixels())).permute(2, 0, 1)[None].float() / 127.5 - 1  # type: ignore[attr-defined]


def test_the_cache_holds_what_vae_and_text_encoder_say(tmp_path: Path, model: Path) -> None:
    config = make_run(tmp_path, model, posterior="mean", flip=True)
    run(config, progress=QUIET)
    cache, pipeline = LatentCache(config.run / "latents"), load_model(config.model).pipeline  # type: ignore[attr-defined]
    candidates = make_candidates(12)
    assert len(cache) == 10 and "g5-0" not in cache  # only what a preference names
    for candidate in candidates[:10]:
        image = pixels(candidate)
        with torch.no_grad():
            wanted = pipeline.vae.encode(image).latent_dist.mean * pipeline.vae.config.scaling_factor
            mirrored = pipeline.vae.encode(image.flip(-1)).latent_dist.mean * pipeline.vae.config.scaling_factor
        torch.testing.assert_close(cache.latents([candidate.candidate_id]), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(cache.latents([candidate.candidate_id], [True]), mirrored, rtol=1e-5, atol=1e-6)
    for prompt, found in (("a red circle", cache.embeds(["a red circle"])), ("", cache.dropout_embeds())):
        wanted = pipeline.encode_prompt([prompt], "cpu", 1, False)[0]
        torch.testing.assert_close(found["prompt_embeds"], wanted, rtol=1e-5, atol=1e-6)
    assert cache.description.posterior == "mean" and cache.description.latent_shapes == {"4x8x8": 10}
    assert len(cache._embeds.place) == 4  # five groups, four distinct prompts


def test_posterior_samples_do_not_depend_on_batch_or_shard(tmp_path: Path, model: Path) -> None:
    small = make_run(tmp_path, model, name="small", batch_size=1, candidates_per_shard=2)
    large = make_run(tmp_path, model, name="large", batch_size=64, candidates_per_shard=512)
    for config in (small, large):
        run(config, progress=QUIET)
    one, other = LatentCache(small.run / "latents"), LatentCache(large.run / "latents")
    ids = sorted(one._latents.place)
    torch.testing.assert_close(one.latents(ids), other.latents(ids), rtol=1e-5, atol=1e-6)
    mean = make_run(tmp_path, model, name="mean", posterior="mean")
    run(mean, progress=QUIET)
    noise = one.latents(ids) - LatentCache(mean.run / "latents").latents(ids)
    assert (noise.flatten(1).std(1) > 0).all()
    pairs = torch.corrcoef(noise.flatten(1))
    assert (pairs - torch.eye(len(ids))).abs().max() < 0.35  # 256 numbers each: independent draws stay below 5 standard errors


def test_media_are_let_go_of_with_their_batch(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many candidates a shard holds, of one size or several."""
    read, candidates, most = Candidate.from_row, [], []

    def from_row(row: dict[str, object]) -> Candidate:
        found = read(row)
        candidates.append(weakref.ref(found))
        most.append(sum(candidate() is not None for candidate in candidates))
        return found

    config = make_run(tmp_path, model, sides=(16, 25), batch_size=2, candidates_per_shard=512)
    decoded = watch(monkeypatch, "image")
    monkeypatch.setattr(Candidate, "from_row", from_row)
    run(config, progress=QUIET)
    assert len(LatentCache(config.run / "latents")) == len(decoded.arrays) == 10
    assert decoded.most == 1 and max(most) <= 2 * 2 + 1  # of each size a batch, and the one just read


@pytest.mark.parametrize("turned", [False, True])
def test_chosen_that_simple_numbers_of_their_latents_tell_are_warned_of(
    turned: bool, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of forty prompts each with a fine and a coarse picture: the fine one chosen in all, or in every other one."""
    draw, candidates = np.random.default_rng(0), []
    for number, words in enumerate(list(product(COLOURS, repeat=3))[:40]):
        for side in range(2):
            pixels = draw.integers(0, 256, (16, 16, 3)).astype(np.uint8)
            if (side == 1) != (turned and number % 2 == 1):
                pixels = pixels[::4, ::4].repeat(4, 0).repeat(4, 1)
            media = Image.from_pixels(pixels)
            candidates.append(Candidate(f"g{number:02d}-{side}", f"g{number:02d}", f"a {' '.join(words)} circle", media))
    config = make_config(tmp_path / "run", model, encode={})
    finish_until_pair(config, candidates, pairs_of(candidates))
    # The weights are random and see next to nothing of a picture; these latents are its pixels.
    monkeypatch.setattr("pipelines.encode._encode_batch", lambda backbone, media, *_: torch.nn.functional.avg_pool2d(media, 2))
    run(config, progress=Progress())
    shortcut = summary_of(config, "encode")["shortcut"]
    assert (shortcut["pairs"], shortcut["prompts"]) == (40, 40)
    assert shortcut["auc"] < 0.7 and shortcut["at_least"] < 0.5 if turned else shortcut["auc"] == 1
    said = " ".join(capsys.readouterr().err.split())
    assert ("tell chosen from rejected: AUC 1.00, at least 0.88 (one-sided" in said) != turned
    assert ("trace of other models, sizes or file formats" in said and "pair.same_source: true" in said) != turned


def test_seeds_are_a_function_of_seed_and_id() -> None:
    seeds = [posterior_seed(seed, name) for seed in (0, 1) for name in ("a", "b", "a:flipped")]
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**63 for seed in seeds)
    assert posterior_seed(0, "a") == seeds[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_is_kept(tmp_path: Path, model: Path, dtype: str) -> None:
    config = make_run(tmp_path, model, dtype=dtype)
    run(config, progress=QUIET)
    cache = LatentCache(config.run / "latents")
    assert cache.dtype == getattr(torch, dtype) == cache.latents(["g0-0"]).dtype == cache.embeds(["a red circle"])["prompt_embeds"].dtype


def test_a_second_run_does_nothing_and_an_interrupted_one_goes_on(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffalign.data.latents as latents

    whole = make_run(tmp_path, model, name="whole")
    run(whole, progress=QUIET)
    config, write, written = make_run(tmp_path, model), latents.write_latents_shard, []

    def interrupted(folder: Path, index: int, *rest: object) -> None:
        if index == 1 and 1 not in written:
            written.append(1)
            raise KeyboardInterrupt
        written.append(index)
        write(folder, index, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(latents, "write_latents_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, progress=QUIET)
    with pytest.raises(FileNotFoundError, match=r"no cache\.json"):
        LatentCache(config.run / "latents")
    run(config, progress=QUIET)
    assert written == [0, 1, 1, 2]  # the shard that was there is not made again
    for file in sorted((whole.run / "latents").rglob("shard-*.safetensors")):
        assert file.read_bytes() == (config.run / "latents" / file.relative_to(whole.run / "latents")).read_bytes()
    run(config, progress=QUIET)
    assert written == [0, 1, 1, 2]


def test_candidates_that_lost_a_shard_are_not_encoded(tmp_path: Path, model: Path) -> None:
    config = make_run(tmp_path, model)
    (config.run / "candidates" / "shard-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"encode needs .*candidates, but generate has lost files .*first: diffalign generate"):
        run(config, progress=QUIET)


@pytest.mark.parametrize("lost", ["shard-00001.safetensors", "shard-00001.parquet", "embeds/shard-00000.safetensors"])
def test_a_lost_half_of_a_shard_is_made_again(tmp_path: Path, model: Path, lost: str) -> None:
    config = make_run(tmp_path, model)
    run(config, progress=QUIET)
    folder = config.run / "latents"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "stage.json"}
    (folder / lost).unlink()
    run(config, progress=QUIET)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_changed_settings_are_refused(tmp_path: Path, model: Path) -> None:
    config = make_run(tmp_path, model)
    run(config, progress=QUIET)
    changed = config.model_copy(update={"encode": config.encode.model_copy(update={"posterior": "mean"})})  # type: ignore[union-attr]
    with pytest.raises(ValueError, match='posterior: was "sample", is now "mean"'):
        run(changed, progress=QUIET)
    faster = config.model_copy(update={"encode": config.encode.model_copy(update={"batch_size": 1})})  # type: ignore[union-attr]
    run(faster, progress=QUIET)


def test_long_prompts(tmp_path: Path, model: Path) -> None:
    def long_run(name: str, **encode: object) -> Config:
        config = make_config(tmp_path / name, model, encode=encode)
        candidates = [dataclasses.replace(candidate, prompt="a red circle " * 4) for candidate in make_candidates(2)]
        finish_until_pair(config, candidates, pairs_of(candidates))
        return config

    with pytest.raises(ValueError, match=r"1 of 1 prompts are longer than the 8 tokens.*truncate"):
        run(long_run("refused"), progress=QUIET)
    config = long_run("cut", long_prompts="truncate")
    run(config, progress=QUIET)
    assert LatentCache(config.run / "latents").description.prompts_truncated == 1


def test_sizes(tmp_path: Path, model: Path) -> None:
    mixed = make_run(tmp_path, model, name="mixed", sides=(16, 25))
    run(mixed, progress=QUIET)
    cache = LatentCache(mixed.run / "latents")
    assert cache.shapes() == {(4, 8, 8): 6, (4, 12, 12): 4}  # each group at its own size, brought to a multiple of 2
    one = make_run(tmp_path, model, name="one", sides=(16, 25), size=20)
    run(one, progress=QUIET)
    cache = LatentCache(one.run / "latents")
    assert cache.shapes() == {(4, 10, 10): 10} and cache.description.size == (20, 20)
    odd = make_run(tmp_path, model, name="odd", size=[21, 20])
    with pytest.raises(ValueError, match=r"encode\.size is \[21, 20\].*of this model's latents; the nearest: \[20, 20\] and \[22, 20\]"):
        run(odd, progress=QUIET)
    least = make_run(tmp_path, model, name="least", size=[1, 20])
    with pytest.raises(ValueError, match=r"the nearest: \[2, 20\]$"):
        run(least, progress=QUIET)


def test_media_that_last_longer_than_the_model_s_own_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two of six sounds are of 0.768 s, the model is of 0.512 s: encoded whole, or cut where encode.size says so."""
    source = str(save_tiny_tango(tmp_path / "model"))

    def told(name: str, lengths: tuple[int, ...], **encode: object) -> tuple[str, dict[str, object]]:
        sounds = [Audio.from_waveform(np.full((1, lengths[index % len(lengths)]), 0.1), 16_000) for index in range(6)]
        candidates = [Candidate(f"g{index // 2}-{index % 2}", f"g{index // 2}", "noise", sound) for index, sound in enumerate(sounds)]
        model = {"backbone": "tango", "source": source, "device": "cpu"}
        config = Config.model_validate({"run": tmp_path / name, "model": model, "encode": encode})
        finish_until_pair(config, candidates, pairs_of(candidates))
        run(config, progress=Progress())
        said = capsys.readouterr().err.replace(source, "tango")
        return said, {key: value for key, value in summary_of(config, "encode").items() if key in ("cut", "over_length", "trimmed")}

    lengths = (8192, 8192, 12_288)
    said, counts = told("whole", lengths)
    assert "2 of 6 candidates last longer than the 0.512 s of 'tango', up to 0.768 s, and are encoded whole" in said
    assert "set encode.size (for example encode.size=[8192]) to cut them" in said and counts == {"over_length": 2}
    said, counts = told("cut", lengths, size=[8192])
    assert "2 of 6 candidates last longer than 0.512 s and are cut there" in said and counts == {"cut": 2}
    cache = LatentCache(tmp_path / "cut/latents")
    assert [cache.covered(f"g{index // 2}-{index % 2}") for index in range(6)] == pytest.approx([1, 1, 2 / 3] * 2)
    said, counts = told("own", (8192, 8000))
    assert "longer" not in said and counts == {"trimmed": 3}
    assert "3 of 6 candidates are cut to a whole number of the model's latents, the first from 0.5 to 0.448 s" in said


@pytest.mark.parametrize(("frames", "size", "share"), [(17, 9, 0.5), (17, 17, 1.0), (16, 13, 12 / 15), (34, 17, 16 / 16), (9, 17, 1.0)])
def test_of_a_cut_video_the_time_between_frames_is_left(frames: int, size: int, share: float) -> None:
    """At 8 frames a second; 34 frames at 16 are 17 at 8."""
    video = Video.from_frames(np.zeros((frames, 4, 4, 3), np.uint8), 16 if frames == 34 else 8)
    backbone: Any = SimpleNamespace(rate=8.0, modality="video")
    assert covered_share(video, (size, 4, 4), backbone) == pytest.approx(share)
    assert covered_share(Image.from_pixels(np.zeros((8, 8, 3), np.uint8)), (4, 4), SimpleNamespace(rate=None)) == 1


def test_a_pair_of_two_sizes_is_refused(tmp_path: Path, model: Path) -> None:
    config = make_config(tmp_path / "run", model, encode={})
    candidates = make_candidates(4)
    candidates[1] = dataclasses.replace(candidates[1], media=Image.from_pixels(np.zeros((16, 32, 3), np.uint8)))
    finish_until_pair(config, candidates, pairs_of(candidates))
    with pytest.raises(ValueError, match=r"1 of 2 preferences join images of different sizes.*'g0' with 16 × 16, 32 × 16.*encode\.size"):
        run(config, progress=QUIET)


def test_missing_candidates_and_corrupt_images_are_named(tmp_path: Path, model: Path) -> None:
    config = make_config(tmp_path / "missing", model, encode={})
    candidates = make_candidates(4)
    finish_until_pair(config, candidates[:2], pairs_of(candidates))
    with pytest.raises(ValueError, match=r"2 of the 4 candidates that preferences name are not in .*'g1-0'"):
        run(config, progress=QUIET)
    config = make_config(tmp_path / "corrupt", model, encode={"candidates_per_shard": 2})
    broken = Image.from_bytes(candidates[3].media.encoded()[:200], "g1-1")
    with pytest.raises(ValueError, match="truncated or corrupt"):
        _ = broken.size
    broken._size = (16, 16)  # as if it had been damaged after generate wrote it
    candidates[3] = dataclasses.replace(candidates[3], media=broken)
    finish_until_pair(config, candidates, pairs_of(candidates))
    with pytest.raises(ValueError, match=r"g1-1.*corrupt|g1-1.*cannot be read"):
        run(config, progress=QUIET)
    assert (config.run / "latents" / "shard-00000.parquet").is_file()  # what was finished stays


@pytest.mark.parametrize(
    ("value", "dtype", "fix"),
    [
        (1e5, "float16", r"over what torch\.float16 holds: set encode\.dtype=bfloat16 or float32"),
        (float("nan"), "float32", r"half precision overflows in some text encoders: set model\.dtype=bfloat16 or float32"),
    ],
)
def test_embeds_that_are_not_finite_are_refused(
    value: float, dtype: str, fix: str, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a T5's of one prompt are over what float16 holds."""
    embed = StableDiffusion.embed

    def overflowing(self: StableDiffusion, prompts: list[str]) -> dict[str, torch.Tensor]:
        found = embed(self, prompts)
        for row, prompt in enumerate(prompts):
            if prompt == "a blue circle":
                found["prompt_embeds"][row, 1, 2] = value
        return found

    monkeypatch.setattr(StableDiffusion, "embed", overflowing)
    config = make_run(tmp_path, model, dtype=dtype)
    with pytest.raises(ValueError, match=rf"prompt_embeds of 1 rows is not finite, the first of prompt 'a blue circle'; .*{fix}"):
        run(config, progress=QUIET)
    monkeypatch.undo()
    run(config, progress=QUIET)


def test_latents_that_are_not_finite_are_refused(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = StableDiffusion.encode

    def overflowing(self: StableDiffusion, media: torch.Tensor, *, seeds: list[int] | None) -> torch.Tensor:
        latents = encode(self, media, seeds=seeds)
        return latents.index_fill(0, torch.tensor([len(latents) - 1]), float("inf")) if len(latents) == 3 else latents

    monkeypatch.setattr(StableDiffusion, "encode", overflowing)
    with pytest.raises(ValueError, match=r"1 candidates are not finite, the first: 'g1-0'.*model\.dtype=float32"):
        run(make_run(tmp_path, model), progress=QUIET)


def test_fit_covers_and_crops_the_centre() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 15:25] = 255
    assert fit(image, (20, 40)) is image
    assert (fit(image, (20, 10)) == 255).all()
    assert fit(image, (10, 10)).shape == (10, 10, 3) and fit(image, (64, 48)).shape == (64, 48, 3)
    for height, width in ((7, 13), (33, 8), (19, 41)):
        assert fit(image, (height, width)).shape == (height, width, 3)


def test_plan_puts_one_size_in_a_shard() -> None:
    sizes = {f"c{index}": ((8, 8), (8, 16))[index % 2] for index in range(7)}
    assert plan_shards(sizes, 3) == [["c0", "c2", "c4"], ["c6"], ["c1", "c3", "c5"]]


def test_a_picture_smaller_than_one_latent_is_told_of_a_size(tmp_path: Path) -> None:
    small = Candidate("small", "g", "p", Image.from_pixels(np.zeros((4, 16, 3), np.uint8)))
    write_candidates(tmp_path / "shard-00000.parquet", [small])
    model: Any = SimpleNamespace(
        modality="image", rate=None, source="m", size=(16, 16), whole=lambda size: tuple(8 * (side // 8) for side in size)
    )
    rows = [Preference("g", "p", ("small",), "labelled", labels=(1,))]
    with pytest.raises(ValueError, match=r"'small' is 16 × 4, smaller than one latent; leave it out of the set, or set encode\.size$"):
        sizes_of(tmp_path, rows, None, model)
    assert sizes_of(tmp_path, rows, (16, 16), model) == {"small": (16, 16)}
