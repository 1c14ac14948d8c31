"""The two-sample test: by hand on four points, beside a plain loop, at its level, and what it refuses."""

import itertools

import numpy as np
import pytest
from scipy.stats import binom, kstest

from wellcheck import twosample
from wellcheck.errors import InputError
from wellcheck.metrics import ranking
from wellcheck.twosample import (
    LEAST_SAY,
    Kernel,
    compare,
    discrepancies,
    distances,
    grams,
    matched,
    median_distance,
    memberships,
    shared,
    smallest_p_value,
    suspicions,
    two_sample_test,
)

KERNELS: tuple[Kernel, ...] = ("summed", "aggregated")


def unbiased(gram: np.ndarray, first: np.ndarray) -> float:
    """Equation 3 of Gretton et al. 2012 as it is written."""
    here, there = np.flatnonzero(first), np.flatnonzero(~first)
    within = [np.mean([gram[a, b] for a, b in itertools.permutations(some, 2)]) for some in (here, there)]
    return float(sum(within) - 2 * np.mean([gram[a, b] for a in here for b in there]))


def test_four_points_by_hand() -> None:
    # Squared distances of 0, 1 | 3, 4 on a line: 1, 9, 16, 4, 9, 1; their median is 6.5.
    squared = distances(np.array([[0.0], [1.0], [3.0], [4.0]]))
    np.testing.assert_allclose(squared, [[0, 1, 9, 16], [1, 0, 4, 9], [9, 4, 0, 1], [16, 9, 1, 0]], atol=1e-5)
    assert twosample.median_distance(squared) == pytest.approx(6.5)
    kernel = {d: sum(np.exp(-d / (6.5 * wide)) for wide in (0.25, 0.5, 1, 2, 4)) for d in (1, 4, 9, 16)}
    by_hand = kernel[1] + kernel[1] - 2 * (kernel[9] + kernel[16] + kernel[4] + kernel[9]) / 4
    first = np.array([True, True, False, False])
    found = compare([("line", squared)], memberships(first, None, 50, seed=0), kernel="summed")
    assert found.mmd["line"] == pytest.approx(by_hand, rel=1e-5)
    # Of six ways to draw two of four, this one and its mirror image are as far apart.
    drawn = np.array([[place in chosen for place in range(4)] for chosen in itertools.combinations(range(4), 2)])
    assert compare([("line", squared)], drawn, kernel="summed").p_value == {"line": 2 / 6}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("first", "second"), [(8, 8), (5, 12), (2, 9)])
def test_every_draw_is_what_the_definition_says(kernel: Kernel, first: int, second: int) -> None:
    squared = distances(np.random.default_rng(0).standard_normal((first + second, 6)))
    drawn = memberships(np.arange(first + second) < first, None, 20, seed=1)
    found = list(grams(squared, kernel))
    assert len(found) == (1 if kernel == "summed" else 5)
    for gram in found:
        ours = discrepancies(gram, drawn.astype(np.float32))
        np.testing.assert_allclose(ours, [unbiased(gram, one) for one in drawn], atol=1e-6)
    widths = [np.exp(-squared / (twosample.median_distance(squared) * wide)) for wide in (4, 2, 1, 0.5, 0.25)]
    plain = [np.sum(widths, axis=0)] if kernel == "summed" else widths
    for gram, other in zip(found, plain, strict=True):  # what was taken from every pair changes nothing
        np.testing.assert_allclose(discrepancies(gram, drawn.astype(np.float32)), [unbiased(other, one) for one in drawn], atol=1e-5)


def test_blocks_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((50, 7))
    whole = distances(values)
    (gram,) = grams(whole, "summed")
    monkeypatch.setattr(twosample, "ROWS", 16)
    monkeypatch.setattr(twosample, "COLUMNS", 3)
    np.testing.assert_allclose(distances(values), whole, atol=1e-5)
    np.testing.assert_allclose(next(iter(grams(whole, "summed"))), gram, atol=1e-6)


def test_distances_far_from_the_origin_keep_their_digits() -> None:
    values = np.random.default_rng(0).standard_normal((40, 30))
    np.testing.assert_allclose(distances(values + 1000), distances(values), rtol=2e-3, atol=1e-3)


def test_draws_keep_sizes_and_strata() -> None:
    strata = np.repeat([0, 1, 5], (10, 20, 4))
    inside = np.random.default_rng(0).random(34) < 0.4
    drawn = memberships(inside, strata, 300, seed=3)
    assert (drawn[0] == inside).all() and drawn.shape == (301, 34)
    for one in np.unique(strata):
        assert set(drawn[:, strata == one].sum(1)) == {inside[strata == one].sum()}
    assert len(np.unique(drawn, axis=0)) > 290
    np.testing.assert_array_equal(drawn, memberships(inside, strata, 300, seed=3))
    assert (drawn != memberships(inside, strata, 300, seed=4)).any()


def both_ways(here: dict[str, np.ndarray], there: dict[str, np.ndarray], trial: int, kernel: Kernel = "summed") -> list[float]:
    """P-values of layers a and b, of both together, and of both where b has a voice of its own."""
    count = len(here["a"])
    drawn = memberships(np.arange(count + len(there["a"])) < count, None, 99, trial)
    space = [(name, distances(here[name], there[name])) for name in here]
    one, apart = (compare(space, drawn, kernel=kernel, apart=names) for names in ((), ("b",)))
    return [one.p_value["a"], one.p_value["b"], one.combined, apart.combined]


def null_p_values(trials: int, kernel: Kernel = "summed") -> np.ndarray:
    """Of `both_ways`, where layers depend on each other and samples of unlike sizes come from one distribution; [trials, 4]."""
    found = []
    for trial in range(trials):
        rng = np.random.default_rng([trial, *b"null"])
        values = rng.standard_normal((30, 4))
        layers = {"a": values, "b": np.tanh(values @ rng.standard_normal((4, 12)))}
        here, there = ({name: one[part] for name, one in layers.items()} for part in (slice(0, 12), slice(12, 30)))
        found.append(both_ways(here, there, trial, kernel))
    return np.array(found)


@pytest.mark.parametrize("kernel", KERNELS)
def test_p_values_are_uniform_where_nothing_differs(kernel: Kernel) -> None:
    found = null_p_values(600, kernel)
    for column in found.T:
        # They are multiples of 1 / 100: a uniform draw within each makes them continuous.
        assert kstest(column - np.random.default_rng(0).random(600) / 100, "uniform").pvalue > 0.001
        for level in (0.01, 0.05, 0.1):
            low, high = binom.interval(0.9999, 600, level)
            assert low <= (column <= level).sum() <= high


@pytest.mark.parametrize("strata", [[0, 0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1, 1, 1], [0, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0]])
@pytest.mark.parametrize("first", ["half", "one"])
def test_the_smallest_p_value_is_that_of_samples_far_apart(strata: list[int], first: str) -> None:
    strata_of = np.array(strata)
    inside = np.zeros(len(strata), bool)
    for one in np.unique(strata_of):
        mine = np.flatnonzero(strata_of == one)
        inside[mine[: len(mine) // 2 if first == "half" else 1]] = True
    if min(inside.sum(), (~inside).sum()) < 2:
        return
    squared = distances(np.random.default_rng(0).standard_normal((len(strata), 2)) + 1e3 * inside[:, None])
    found = compare([("a", squared)], memberships(inside, strata_of, 4000, 0), kernel="summed").combined
    assert found == pytest.approx(smallest_p_value(inside, strata_of), rel=0.2, abs=0.01)


def test_the_layers_together_are_not_fishers_product() -> None:
    """Of a layer that stands there twice nothing more is learnt."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((20, 3)), rng.standard_normal((20, 3)) + 0.4
    one = two_sample_test({"a": first}, {"a": second}, permutations=199, seed=0)
    twice = two_sample_test({"a": first, "b": first}, {"a": second, "b": second}, permutations=199, seed=0)
    assert one.combined == one.p_value["a"] == twice.combined


@pytest.mark.parametrize("shifts", [(0.3, 0.3), (0.5, 0.0), (0.0, 0.5)])
def test_what_layers_of_two_kinds_see_a_little_is_seen_by_both_together(shifts: tuple[float, float]) -> None:
    found = []
    for trial in range(300):
        rng = np.random.default_rng([trial, *b"voices"])
        here, there = ({name: rng.standard_normal((25, 4)) for name in "ab"} for _ in range(2))
        found.append(both_ways(here, {name: there[name] + shift for name, shift in zip("ab", shifts, strict=True)}, trial))
    a, b, largest, apart = (np.array(found) <= 0.05).mean(0)
    if all(shifts):
        assert apart > max(a, b, largest) + 0.03  # more than either sees
    else:
        assert max(a, b) > 0.4 and apart > max(a, b) - 0.15 and apart > largest - 0.05  # the silent one costs little


def test_a_layer_that_stands_there_twice_is_one_voice() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((20, 3))
    a, b, largest, apart = both_ways({"a": one, "b": one}, {"a": one[::-1] + 0.4, "b": one[::-1] + 0.4}, 0)
    assert a == b == largest == apart


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_differs_is_seen(kernel: Kernel) -> None:
    rng = np.random.default_rng(0)
    same = {"shifted": rng.standard_normal((60, 10)), "same": rng.standard_normal((60, 10))}
    other = {"shifted": rng.standard_normal((50, 10)) + 0.7, "same": rng.standard_normal((50, 10))}
    found = two_sample_test(same, other, kernel=kernel, permutations=199, seed=0)
    assert found.combined == found.p_value["shifted"] == 1 / 200 < found.p_value["same"]
    assert found.mmd["shifted"] > 10 * abs(found.mmd["same"])


def test_the_mix_of_classes_alone_is_no_difference_once_it_is_matched() -> None:
    """Queries of one class only, from the same distribution: without matching all differ, with it as many as the level says."""
    alarms = np.zeros(2)
    for trial in range(200):
        rng = np.random.default_rng([trial, *b"mix"])
        classes = rng.integers(0, 3, 150)
        reference = rng.standard_normal((150, 4)) + 3 * classes[:, None]
        wanted = np.where(rng.random(30) < 0.9, 0, rng.integers(0, 3, 30))
        queries = rng.standard_normal((30, 4)) + 3 * wanted[:, None]
        for column, rows in enumerate((rng.permutation(150)[:30], matched(classes, wanted, rng))):
            inside = np.arange(30 + len(rows)) < 30
            strata = np.concatenate([wanted, classes[rows]]) if column else None
            squared = distances(np.concatenate([queries, reference[rows]]))
            found = compare([("a", squared)], memberships(inside, strata, 99, seed=trial), kernel="summed")
            alarms[column] += found.combined <= 0.1
    assert alarms[0] > 190
    low, high = binom.interval(0.999, 200, 0.1)
    assert low <= alarms[1] <= high


def test_who_is_matched() -> None:
    available, wanted = np.array([0, 1, 1, 2, 2, 2, 2, 4]), np.array([2, 2, 1, 3])
    rows = matched(available, wanted, np.random.default_rng(0))
    assert sorted(available[rows]) == [1, 2, 2] and len(set(rows)) == 3  # nobody of class 3 is there
    assert not len(matched(available, np.array([3]), np.random.default_rng(0)))
    drawn = {tuple(matched(available, wanted, np.random.default_rng(seed))) for seed in range(40)}
    assert len(drawn) == 12  # 2 of the first class, 6 pairs of the second


def test_who_is_suspicious() -> None:
    rng = np.random.default_rng(0)
    natural = rng.standard_normal((300, 8))
    queries = np.concatenate([rng.standard_normal((30, 8)) + 1.5, rng.standard_normal((20, 8))])
    found = suspicions({"a": queries, "b": queries**2}, *({"a": part, "b": part**2} for part in (natural[:100], natural[100:])))
    changed = np.arange(50) < 30
    assert (found.witness[changed, None] > found.witness[~changed]).mean() > 0.97
    assert (found.p_value[changed] <= 0.05).mean() > 0.9
    assert found.p_value.min() >= 1 / 201


def test_the_median_of_mostly_equal_rows_is_of_the_others() -> None:
    rng = np.random.default_rng(0)
    values = np.tile(rng.standard_normal(64).astype(np.float32) * 30, (100, 1))
    values[:20, :16] += rng.choice([-2, 2], (20, 16))
    squared = distances(values)
    assert (squared[20:, 20:] == 0).all()
    assert median_distance(squared) > 10  # 64 between a moved row and another


def test_every_rank_is_what_the_definition_says() -> None:
    """Two layers, and every query by itself: written out, with the kernel's width from the reference alone."""
    rng = np.random.default_rng(0)
    queries, reference, natural = ({"a": rng.standard_normal((count, 2)), "b": 9 * rng.standard_normal((count, 3))} for count in (4, 5, 6))
    found = suspicions(queries, reference, natural)
    total = np.zeros((4, 7))  # of each query, and of the six natural inputs in its place
    for name, one in itertools.product(("a", "b"), range(4)):
        others = np.delete(queries[name], one, 0)
        pairs = [((x - y) ** 2).sum() for place, x in enumerate(reference[name]) for y in reference[name][:place]]
        widths = float(np.median(pairs)) * 2.0 ** np.arange(-2, 3)

        def kernel(x: np.ndarray, points: np.ndarray, widths: np.ndarray = widths) -> float:
            return float(np.mean([np.exp(-((x - y) ** 2).sum() / widths).sum() for y in points]))

        witness = np.array([kernel(x, others) - kernel(x, reference[name]) for x in [queries[name][one], *natural[name]]])
        # How far the others stand out, each beside the two that are neither it nor this one.
        standing = [kernel(x, np.delete(others, place, 0)) - kernel(x, reference[name]) for place, x in enumerate(others)]
        say = (np.mean(standing) - witness.mean()) / witness.std()
        total[one] += max(say, LEAST_SAY) ** 2 * (witness - witness.mean()) / witness.std()
    np.testing.assert_allclose(found.witness, (total[:, 0] - total.mean(1)) / total.std(1), atol=1e-3)
    np.testing.assert_array_equal(found.p_value, (total >= total[:, :1]).mean(1))


def test_what_many_layers_do_not_see_does_not_drown_what_one_sees() -> None:
    rng = np.random.default_rng(0)
    queries, reference, natural = ({f"layer {place}": rng.standard_normal((80, 3)) for place in range(20)} for _ in range(3))
    queries["layer 7"][:40] += 2
    found = suspicions(queries, reference, natural)
    auroc = ranking(found.witness, np.arange(80) < 40)["auroc"]
    assert auroc is not None and auroc > 0.9  # 0.98; 0.82 if all had the same say


@pytest.mark.parametrize(("count", "layers", "draws"), [(2, 10, 600), (3, 10, 400), (20, 8, 120)])
def test_a_natural_query_ranks_by_lot_however_few_there_are_and_however_many_layers(count: int, layers: int, draws: int) -> None:
    rates = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        queries, reference, natural = (
            {f"layer {place}": rng.standard_normal((size, 2)) for place in range(layers)} for size in (count, 20, 19)
        )
        rates.append((suspicions(queries, reference, natural).p_value <= 0.1).mean())  # of each batch: its queries hang together
    assert abs(np.mean(rates) - 0.1) < 3 * np.std(rates) / draws**0.5  # 0.1 = 2 / 20; 0.26 if who is scored had a say


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ((np.eye(5), np.eye(5) + 1, np.eye(5)), r"5 of 5 inputs of the calibration are in the queries too \(row 0 is\)"),
        ((np.eye(5) + 2, np.eye(5), np.eye(5).astype(np.float16)), "5 of 5 inputs of the calibration are in the reference too"),
        ((np.eye(5), np.eye(5), np.eye(5) + 1), "5 of 5 inputs of the reference are in the queries too"),
        ((np.eye(5), np.eye(5) + 1, np.eye(5)[:0]), "at least 2 queries, 2 of reference and 1 of calibration are needed, found 5, 5 and 0"),
        ((np.eye(5)[:1], np.eye(5) + 1, np.eye(5) + 2), "found 1, 5 and 5"),
    ],
)
def test_what_cannot_be_ranked_is_refused(samples: tuple[np.ndarray, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        suspicions(*({"a": one} for one in samples))


def test_ranked_samples_have_the_same_layers() -> None:
    with pytest.raises(InputError, match="the queries and the reference have different layers: a and b"):
        suspicions({"a": np.eye(5)}, {"b": np.eye(5)}, {"a": np.eye(5)})


def test_inputs_that_several_look_like_are_not_the_same() -> None:
    rng = np.random.default_rng(0)
    first, second = ({"a": rng.integers(0, 4, (30, 1)).astype(np.float32)} for _ in range(2))
    assert 0 < two_sample_test(first, second, permutations=19, seed=0).combined <= 1


def test_an_error_names_its_layer() -> None:
    first, second = ({"a": np.random.default_rng(seed).standard_normal((5, 2)), "b": np.full((5, 2), seed * 0.0)} for seed in (1, 2))
    with pytest.raises(InputError, match=r"^layer b: twosample: all 10 rows of the layer are the same"):
        two_sample_test(first, second, permutations=9, seed=0)


def test_natural_queries_are_flagged_as_often_as_the_level_says() -> None:
    """Though most of the others are no natural ones."""
    flagged, asked = 0, 0
    for trial in range(60):
        rng = np.random.default_rng([trial, *b"witness"])
        queries = np.concatenate([rng.standard_normal((20, 5)) + 1, rng.standard_normal((10, 5))])
        found = suspicions({"a": queries}, {"a": rng.standard_normal((40, 5))}, {"a": rng.standard_normal((99, 5))})
        flagged, asked = flagged + (found.p_value[20:] <= 0.1).sum(), asked + 10
    low, high = binom.interval(0.999, asked, 0.1)
    assert low <= flagged <= high


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (np.ones((5, 3)), np.ones((5, 3)), "all 10 rows of the layer are the same"),
        (np.eye(5), np.full((5, 5), np.nan), "finite numbers, and are not in 5 of 10 rows, the first of them 5"),
        (np.eye(5), np.full((5, 5), 1e25), "so large that their distances are no numbers"),
        (np.eye(5)[:1] + 1, np.eye(5), "at least 2 members, found 1 and 5"),
        (np.eye(5), np.eye(5)[:0], "at least 2 members, found 5 and 0"),
        (
            np.eye(5),
            np.eye(5)[2:] + np.diag([0, 1, 0, 0, 0])[:3],
            r"2 of 3 inputs of the second sample are in the first sample too \(row 0 is\)",
        ),
    ],
    ids=["constant", "not numbers", "too large", "one", "none", "overlap"],
)
def test_what_cannot_be_tested_is_refused(first: np.ndarray, second: np.ndarray, told: str) -> None:
    with pytest.raises(InputError, match=told):
        two_sample_test({"a": first}, {"a": second}, permutations=9, seed=0)


def rounded(values: np.ndarray, seed: int) -> np.ndarray:
    """As another batch would have it: in half precision, off by its rounding."""
    off = np.random.default_rng(seed).uniform(-1, 1, values.shape) * 2.0**-11
    return (values * (1 + off)).astype(np.float16)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_inputs_that_were_captured_in_another_batch_are_known_again(layers: int, offset: float) -> None:
    rng = np.random.default_rng(0)
    reference = {f"layer {place}": rng.standard_normal((60, 12)) + offset for place in range(layers)}
    queries = {
        name: np.concatenate([rng.standard_normal((20, 12)) + offset, rounded(values[40:], 1)]) for name, values in reference.items()
    }
    assert shared(reference, queries).tolist() == list(range(20, 40))
    with pytest.raises(InputError, match=r"20 of 40 inputs of the second sample are in the first sample too \(row 20 is\)"):
        two_sample_test(reference, queries, permutations=9, seed=0)


def test_a_layer_that_hardly_moves_has_no_say_in_who_is_known_again() -> None:
    rng = np.random.default_rng(0)
    reference = {"a": rng.standard_normal((30, 12)), "b": rng.standard_normal((30, 12)), "saturated": np.ones((30, 12))}
    queries = {name: rounded(values[:10], 2) for name, values in reference.items()}
    assert shared(reference, queries).tolist() == list(range(10))


def test_nobody_is_known_again_who_is_new() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        first, second = ({"a": rng.standard_normal((100, 8)).astype(np.float16)} for _ in range(2))
        assert not len(shared(first, second))


def test_layers_must_be_the_same_and_as_long() -> None:
    with pytest.raises(InputError, match="different layers: a and b"):
        two_sample_test({"a": np.eye(3)}, {"b": np.eye(3)}, permutations=9, seed=0)
    with pytest.raises(InputError, match="as many rows"):
        two_sample_test({"a": np.eye(3), "b": np.eye(4)}, {"a": np.eye(3), "b": np.eye(3)}, permutations=9, seed=0)
    with pytest.raises(InputError, match="no layer to compare"):
        compare([], memberships(np.arange(6) < 3, None, 9, seed=0), kernel="summed")
    with pytest.raises(InputError, match="at least 1 permutation"):
        memberships(np.arange(6) < 3, None, 0, seed=0)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 40, 41])
def test_the_median_of_the_distances_is_numpys(count: int) -> None:
    squared = distances(np.random.default_rng(count).standard_normal((count, 3)))
    assert median_distance(squared) == pytest.approx(float(np.median(squared[np.triu_indices(count, 1)])), rel=1e-6)
