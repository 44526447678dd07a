"""Whether chosen and rejected are told apart by simple numbers of their latents: separable, shuffled and small sets, and the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from diffalign.data import latent_shortcut as module
from diffalign.data.latent_shortcut import OF_A_PROMPT, LatentShortcut, features, latent_shortcut
from diffalign.data.records import Preference

SHAPES = [(4, 8, 8), (3, 4, 6, 6), (2, 40), (1, 8, 30)]  # an image's, a clip's, a sound's, a mel picture's


def drawn(name: str, shape: tuple[int, ...] = (4, 8, 8)) -> Tensor:
    """Standard normal latents of a candidate, of its name alone."""
    return torch.from_numpy(np.random.default_rng(list(name.encode())).standard_normal(shape, np.float32))


def of_two_models(shape: tuple[int, ...]) -> Callable[[str], Tensor]:
    """Latents of the models a and b, the first letter of a name: those of b are a little smoother along their last axis."""

    def latents(name: str) -> Tensor:
        own = drawn(name, shape)
        return own + 0.5 * own.roll(1, dims=-1) if name[0] == "b" else own

    return latents


def pairs(winners: list[str], count: int = 1) -> list[Preference]:
    """For each winner, "a" or "b", a prompt with `count` pairs of a sample of that model and one of the other."""
    sides = [(winner, "b" if winner == "a" else "a") for winner in winners]
    return [
        Preference(f"g{prompt}-{pair}", f"p{prompt}", (f"{win}{prompt}-{pair}", f"{lose}{prompt}-{pair}"))
        for prompt, (win, lose) in enumerate(sides)
        for pair in range(count)
    ]


def found_in(preferences: list[Preference], latents: Callable[[str], Tensor] = drawn) -> LatentShortcut:
    found = latent_shortcut(preferences, latents, 0)
    assert found is not None
    return found


@pytest.mark.parametrize("winner", ["a", "b"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sets_that_are_separable_by_model_are_suspicious(shape: tuple[int, ...], winner: str) -> None:
    """Whichever model is preferred, and however many axes its samples have."""
    found = found_in(pairs([winner] * 100, 4), of_two_models(shape))
    assert found.auc > 0.93 and found.at_least > 0.83 and found.is_suspicious and (found.pairs, found.prompts) == (400, 100)


@pytest.mark.parametrize("seed", range(10))
def test_with_shuffled_labels_nothing_is_beyond_chance(seed: int) -> None:
    """The same samples, and each model preferred in half of the prompts: whether one pair of it or several."""
    winners = np.random.default_rng(seed).permutation(["a", "b"] * 50).tolist()
    for count in (1, 4):
        found = found_in(pairs(winners, count), of_two_models((4, 8, 8)))
        assert found.at_least < 0.5 and found.auc < 0.65 and not found.is_suspicious


def test_the_bound_is_above_chance_as_seldom_as_it_says() -> None:
    """Folds share what they are fitted on: the bare binomial bound would be too high in a tenth of such sets."""
    rng, above = np.random.default_rng(5), 0
    for _ in range(100):
        winners = ["ab"[coin] for coin in rng.integers(0, 2, 60)]
        shift = rng.standard_normal((2, 60, 6))

        def latents(name: str, shift: np.ndarray = shift) -> Tensor:
            level = torch.from_numpy(shift["ab".index(name[0]), int(name[1:].partition("-")[0])])
            return level[:, None] + torch.tensor([1.0, -1.0]).double()

        above += found_in(pairs(winners), latents).at_least > 0.5
    assert above <= 5


def test_better_samples_are_told_apart_somewhat_and_are_not_suspicious() -> None:
    """Chosen that are a quarter of a deviation brighter, as a better picture may be."""

    def latents(name: str) -> Tensor:
        mood = float(np.random.default_rng([*name.encode(), 1]).standard_normal())
        return drawn(name) + mood + 0.35 * (name[0] == "a")

    found = found_in(pairs(["a"] * 400), latents)
    assert found.at_least > 0.5 and 0.55 < found.auc < 0.7 and not found.is_suspicious


def test_few_prompts_prove_nothing() -> None:
    assert found_in(pairs(["a"] * 10, 8), of_two_models((4, 8, 8))).at_least < 0.75
    assert latent_shortcut(pairs(["a"], 90), drawn, 0) is None and latent_shortcut([], drawn, 0) is None


def test_a_prompt_beside_another_condition_is_another_one() -> None:
    """As of edits, whose instructions are few and whose images are many."""
    same = [replace(preference, prompt="make it snow") for preference in pairs(["a"] * 100)]
    conditions = {sample: preference.group_id for preference in same for sample in preference.samples}
    assert latent_shortcut(same, of_two_models((4, 8, 8)), 0) is None
    found = latent_shortcut(same, of_two_models((4, 8, 8)), 0, conditions)
    assert found is not None and (found.pairs, found.prompts) == (100, 100) and found.is_suspicious


def test_the_score_is_fitted_on_other_prompts() -> None:
    """Each prompt's winners have a level of their own in every channel: of the same prompt it would be learnt, of others it cannot be."""

    def latents(name: str) -> Tensor:
        level = drawn(name[1:].partition("-")[0], (64, 1))
        return drawn(name, (64, 4)) + (3 if name[0] == "a" else -3) * level

    found = found_in(pairs(["a"] * 40, 8), latents)
    assert found.at_least < 0.5 and found.auc < 0.7


def test_lists_ties_and_labels() -> None:
    """Of a list every two that are not tied are pairs, of a pair none that is a tie; rows judged one by one have none."""
    rows = [Preference(f"g{i}", f"p{i}", (f"a{i}", f"b{i}", f"c{i}"), "list", scores=(1.0, 0.5, 0.5)) for i in range(30)]
    rows += [Preference("g", "tied", ("a100", "b100"), win_probability=0.5), Preference("g", "one", ("a101",), "labelled", labels=(1,))]
    found = found_in(rows, of_two_models((4, 8, 8)))
    assert (found.pairs, found.prompts) == (60, 30)


def test_of_a_large_set_a_sample_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most so many pairs, of a prompt at most OF_A_PROMPT, and at most so many numbers."""
    monkeypatch.setattr(module, "MOST_PAIRS", 100)
    read: list[str] = []

    def latents(name: str) -> Tensor:
        read.append(name)
        return drawn(name)

    rows = pairs(["a"] * 50, 20)
    found = found_in(rows, latents)
    assert 100 <= found.pairs < 100 + OF_A_PROMPT and found.prompts == math.ceil(100 / OF_A_PROMPT) and len(read) == 2 * found.pairs
    assert found_in(rows, latents) == found and latent_shortcut(rows, latents, 1) != found
    monkeypatch.setattr(module, "MOST_NUMBERS", 10 * 256)
    assert found_in(pairs(["a"] * 50), latents).pairs == 5, "two samples of 256 numbers to a pair"


def test_the_weights_are_the_least_of_what_is_said() -> None:
    rng = np.random.default_rng(0)
    differences, shares = rng.standard_normal((60, 5)) + 0.5, rng.uniform(0.2, 1, 60)

    def loss(weights: np.ndarray) -> float:
        return float(shares @ np.logaddexp(0, -differences @ weights) + weights @ weights / 2)

    assert np.allclose(module._fit(differences, shares), minimize(loss, np.zeros(5), tol=1e-12).x, atol=1e-5)


def test_the_features_by_hand() -> None:
    """Of a sine of amplitude 2 and frequency 1/8 upon 3 and one of amplitude 1 and frequency 3/8: energies 4 to 1; the rest has none."""
    time = torch.arange(16.0)
    slow, fast = 2 * torch.sin(2 * math.pi * time / 8), torch.sin(2 * math.pi * time * 3 / 8)
    mean, deviation, ratio = features((3 + slow + fast)[None])
    assert mean == pytest.approx(3, abs=1e-5) and deviation == pytest.approx(math.log(math.sqrt(4 / 2 + 1 / 2)), abs=1e-5)
    assert ratio == pytest.approx(math.log(1 / 4), abs=1e-4)
    assert features(torch.zeros(2, 3, 8)).shape == (6,) and np.isfinite(features(torch.zeros(2, 3, 8))).all()
    assert features(drawn("x", (1, 3, 8)))[2] == 0, "an axis of 3 has no frequencies on both sides of a quarter"
