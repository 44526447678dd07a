from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffalign.data.latents import (
    CacheDescription,
    LatentCache,
    read_cache_description,
    write_cache_description,
    write_dropout_embeds,
    write_embeds_shard,
    write_latents_shard,
)


def write_cache(folder: Path, dtype: str = "float32", flip: bool = False) -> dict[str, torch.Tensor]:
    """Three shards (two of 4×8×8, one of 4×8×12) and two shards of embeds; returns id → latent, prompt → embed."""
    torch_dtype = getattr(torch, dtype)
    rows: dict[str, torch.Tensor] = {}
    for shard, shape in enumerate([(4, 8, 8), (4, 8, 8), (4, 8, 12)]):
        ids = [f"c{shard}-{row}" for row in range(5)]
        latents = torch.randn(5, *shape, generator=torch.Generator().manual_seed(shard)).to(torch_dtype)
        rows |= dict(zip(ids, latents))
        rows |= {f"{name}:flipped": latent.flip(-1) for name, latent in zip(ids, latents)}
        write_latents_shard(folder, shard, ids, latents, latents.flip(-1) if flip else None)
    for shard in range(2):
        prompts = [f"a prompt {shard} {row}" for row in range(3)]
        embeds = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(9 + shard)).to(torch_dtype)
        rows |= dict(zip(prompts, embeds))
        write_embeds_shard(folder, shard, prompts, {"prompt_embeds": embeds, "pooled": embeds.float().mean(1).to(torch_dtype)})
    write_dropout_embeds(folder, {"prompt_embeds": torch.zeros(1, 7, 6, dtype=torch_dtype), "pooled": torch.zeros(1, 6, dtype=torch_dtype)})
    write_cache_description(folder, CacheDescription(dtype, "sample", "abc", seed=3, size=(64, 96), flip=flip))
    return rows


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rows_come_back_bit_for_bit_in_the_order_asked_for(tmp_path: Path, dtype: str) -> None:
    rows = write_cache(tmp_path, dtype)
    cache = LatentCache(tmp_path)
    ids = ["c1-4", "c0-0", "c1-0", "c0-0", "c0-3"]
    found = cache.latents(ids)
    assert cache.dtype == found.dtype == getattr(torch, dtype)
    assert torch.equal(found, torch.stack([rows[name] for name in ids]))
    prompts = ["a prompt 1 2", "a prompt 0 0", "a prompt 1 2"]
    embeds = cache.embeds(prompts)
    assert set(embeds) == {"prompt_embeds", "pooled"}
    assert torch.equal(embeds["prompt_embeds"], torch.stack([rows[prompt] for prompt in prompts]))
    assert embeds["pooled"].shape == (3, 6)
    assert cache.dropout_embeds()["prompt_embeds"].shape == (1, 7, 6)
    assert len(cache) == 15 and "c2-4" in cache and "c3-0" not in cache
    assert cache.shapes() == {(4, 8, 8): 10, (4, 8, 12): 5} and cache.shape("c2-1") == (4, 8, 12)
    assert cache.description == CacheDescription(dtype, "sample", "abc", seed=3, size=(64, 96))


def test_what_is_returned_may_be_written_into_without_touching_the_cache(tmp_path: Path) -> None:
    write_cache(tmp_path)
    cache = LatentCache(tmp_path)
    first = cache.latents(["c0-0", "c0-1"])
    kept = first.clone()
    first.zero_()
    assert torch.equal(cache.latents(["c0-0", "c0-1"]), kept)


@settings(max_examples=25, deadline=None)
@given(picks=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.booleans()), min_size=1, max_size=40))
def test_any_rows_with_any_flips(tmp_path_factory: pytest.TempPathFactory, picks: list[tuple[int, int, bool]]) -> None:
    folder = tmp_path_factory.mktemp("cache")
    rows = write_cache(folder, flip=True)
    ids, flips = [f"c{shard}-{row}" for shard, row, _ in picks], [flip for *_, flip in picks]
    wanted = torch.stack([rows[f"{name}:flipped" if flip else name] for name, flip in zip(ids, flips)])
    assert torch.equal(LatentCache(folder).latents(ids, flips), wanted)


def test_mixed_shapes_are_refused(tmp_path: Path) -> None:
    write_cache(tmp_path)
    with pytest.raises(ValueError, match=r"different shapes.*\(4, 8, 8\): 1.*\(4, 8, 12\): 1.*batch by shape"):
        LatentCache(tmp_path).latents(["c0-0", "c2-0"])


def test_missing_rows_and_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no cache\.json.*run `diffalign encode"):
        LatentCache(tmp_path)
    write_cache(tmp_path)
    cache = LatentCache(tmp_path)
    with pytest.raises(KeyError, match=r"1 of 2 candidates are not in the latent cache \(it holds 15\).*'gone'.*--redo"):
        cache.latents(["c0-0", "gone"])
    with pytest.raises(KeyError, match="1 of 1 prompts are not in the latent cache"):
        cache.embeds(["never seen"])
    with pytest.raises(ValueError, match=r"encode\.flip=true"):
        cache.latents(["c0-0"], [True])
    with pytest.raises(ValueError, match="no candidate"):
        cache.latents([])
    whole = (tmp_path / "embeds/dropout.safetensors").read_bytes()
    for content in (whole[:20], whole[:-1], None):
        if content is None:
            (tmp_path / "embeds/dropout.safetensors").unlink()
        else:
            (tmp_path / "embeds/dropout.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"dropout\.safetensors is missing or damaged.*encode again"):
            cache.dropout_embeds()
    (tmp_path / "shard-00000.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00garbage!")
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors is missing or damaged.*encode again"):
        LatentCache(tmp_path).latents(["c0-0"])


@pytest.mark.parametrize("text", ["{", "[]", '{"dtype": "float32"}', '{"dtype": "int4", "posterior": "mean", "backbone": "x"}'])
def test_an_unreadable_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "cache.json").write_text(text)
    with pytest.raises(ValueError, match=r"cache\.json.*encode again"):
        read_cache_description(tmp_path)


def test_shards_with_wrong_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 ids, 1 distinct, 2 rows"):
        write_latents_shard(tmp_path, 0, ["a", "a"], torch.zeros(2, 1))
    with pytest.raises(ValueError, match="must be equal"):
        write_latents_shard(tmp_path, 0, ["a"], torch.zeros(1, 2), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"1 prompts, 1 distinct, rows \{'e': 2\}"):
        write_embeds_shard(tmp_path, 0, ["a"], {"e": torch.zeros(2, 1)})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_latents_shard(tmp_path, 0, ["a"], torch.zeros(1, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.bench
def test_gathering_64_rows_of_40_shards(tmp_path: Path) -> None:
    import random
    import time

    for shard in range(40):
        write_latents_shard(tmp_path, shard, [f"c{shard}-{row}" for row in range(512)], torch.randn(512, 4, 8, 8))
    write_embeds_shard(tmp_path, 0, ["p"], {"e": torch.zeros(1, 2)})
    write_cache_description(tmp_path, CacheDescription("float32", "mean", "x"))
    cache, draw, seconds = LatentCache(tmp_path), random.Random(0), []
    for _ in range(500):
        ids = [f"c{draw.randrange(40)}-{draw.randrange(512)}" for _ in range(64)]
        start = time.perf_counter()
        cache.latents(ids)
        seconds.append(time.perf_counter() - start)
    print(f"64 rows of 4×8×8 from 40 shards: median {1e6 * sorted(seconds)[250]:.0f} µs")
