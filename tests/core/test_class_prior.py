import numpy as np
import pytest
from scipy.special import expit, softmax

from hiwl_core.class_prior import estimate_prior, move_prior, parse_prior
from hiwl_core.errors import UserError

CLASSES = ("CRS", "IBS", "CSS")
OLD = np.array([0.5, 0.3, 0.2])
NEW = np.array([0.1, 0.2, 0.7])


def mixture(shares: np.ndarray, prior: np.ndarray, count: int, seed: int, apart: float = 2.0) -> np.ndarray:
    """Exact posteriors under `prior` of galaxies that are mixed in `shares`: Gaussians on a triangle."""
    rng = np.random.default_rng(seed)
    centers = apart * np.eye(3)
    features = rng.normal(size=(count, 3)) + centers[rng.choice(3, size=count, p=shares)]
    squares = ((features[:, None, :] - centers) ** 2).sum(axis=2)
    return softmax(np.log(prior) - squares / 2, axis=1)


def test_moved_probabilities_are_bayes_rule_with_the_other_prior() -> None:
    assert move_prior(mixture(NEW, OLD, 200, seed=0), OLD, NEW) == pytest.approx(
        mixture(NEW, NEW, 200, seed=0)
    )
    feature = np.linspace(-3, 3, 13)
    even = np.column_stack([expit(-feature), expit(feature)])
    moved = move_prior(even, np.array([0.5, 0.5]), np.array([0.13, 0.87]))
    assert moved[:, 1] == pytest.approx(expit(feature + np.log(0.87 / 0.13)))


def test_a_move_back_undoes_a_move_and_none_changes_nothing() -> None:
    p = mixture(OLD, OLD, 100, seed=1)
    assert move_prior(move_prior(p, OLD, NEW), NEW, OLD) == pytest.approx(p)
    assert move_prior(p, OLD, OLD) == pytest.approx(p)
    assert move_prior(p, OLD, NEW).sum(axis=1) == pytest.approx(1)


def test_a_class_without_a_share_has_no_probability_and_rows_stay_whole() -> None:
    p = np.array([[0.2, 0.3, 0.5], [0.0, 0.0, 1.0], [np.nan, np.nan, np.nan]])
    moved = move_prior(p, OLD, np.array([0.6, 0.4, 0.0]))
    assert moved[:2, 2].tolist() == [0, 0]
    assert moved[:2].sum(axis=1) == pytest.approx(1)
    assert np.isnan(moved[2]).all()


@pytest.mark.parametrize("shares", [[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.9, 0.08, 0.02]])
def test_the_shares_of_a_mix_are_found(shares: list[float]) -> None:
    found = estimate_prior(mixture(np.array(shares), OLD, 30_000, seed=2), OLD)
    assert found.sum() == pytest.approx(1)
    assert found == pytest.approx(shares, abs=0.012)


def test_the_shares_have_the_highest_likelihood() -> None:
    p = mixture(NEW, OLD, 1000, seed=3)
    found = estimate_prior(p, OLD, tolerance=1e-12, max_iterations=5000)
    # Where it is highest, the moved probabilities' mean is the shares themselves.
    assert move_prior(p, OLD, found).mean(axis=0) == pytest.approx(found, abs=1e-9)

    def likelihood(shares: np.ndarray) -> float:
        return float(np.log((p / OLD) @ shares).sum())

    for other in np.random.default_rng(4).dirichlet(200 * found, size=50):
        assert likelihood(other) <= likelihood(found)


def test_unknown_rows_do_not_count() -> None:
    p = mixture(NEW, OLD, 500, seed=5)
    with_gaps = np.concatenate([p, np.full((100, 3), np.nan)])
    assert estimate_prior(with_gaps, OLD) == pytest.approx(estimate_prior(p, OLD))


def test_one_step_is_the_mean_of_the_probabilities() -> None:
    p = mixture(NEW, OLD, 500, seed=6)
    assert estimate_prior(p, OLD, max_iterations=1) == pytest.approx(p.mean(axis=0))


def test_a_prior_is_read_in_any_order() -> None:
    assert parse_prior("CSS=.2, CRS=0.5,IBS = 3e-1", CLASSES) == pytest.approx([0.5, 0.3, 0.2])
    assert parse_prior("CRS=.3,IBS=.3,CSS=.4004", CLASSES).sum() == pytest.approx(1, abs=1e-15)
    assert parse_prior("CRS=1,IBS=0,CSS=0", CLASSES).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("CRS=.5,IBS=.3,SPI=.2", "no class 'SPI' in this model; it has CRS, IBS, CSS"),
        ("CRS=.5,IBS=.5", "no share of CSS; give each class one, CSS=0 too"),
        ("CRS=.5,IBS=.3,CSS=.1,CRS=.1", "CRS is given twice, 0.5 and .1; give it once"),
        ("CRS=half,IBS=.3,CSS=.2", "CRS=half is not a number; give a share such as CRS=0.2"),
        ("CRS=nan,IBS=.3,CSS=.2", "CRS=nan is not a number"),
        ("CRS=inf,IBS=.3,CSS=.2", "CRS=inf is not a number"),
        ("CRS=.9,IBS=-.1,CSS=.2", "IBS=-.1 is negative; give a share from 0 to 1"),
        ("CRS=.5,IBS=.3,CSS=.3", "the shares sum to 1.1; they must sum to 1"),
        (
            "CRS=.5,IBS=.3,CSS",
            "'CSS' is not CLASS=SHARE; write one a class, with commas between, such as CRS=0.3",
        ),
        ("", "'' is not CLASS=SHARE"),
    ],
)
def test_a_prior_that_cannot_be_is_one_line_that_says_why(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_prior(text, CLASSES)
    message = str(caught.value)
    assert message.startswith("--prior: ")
    assert words in message
    assert "\n" not in message


def test_other_mistakes_are_named() -> None:
    p = np.full((2, 3), 1 / 3)
    with pytest.raises(UserError, match=r"not \(2,\) old, \(3,\) new"):
        move_prior(p, OLD[:2], NEW)
    with pytest.raises(UserError, match="each must be positive"):
        move_prior(p, np.array([0.5, 0.5, 0.0]), NEW)
    with pytest.raises(UserError, match="each must be 0 or more"):
        move_prior(p, OLD, np.array([1.5, -0.5, 0.0]))
    with pytest.raises(UserError, match="each must be 0 or more"):
        move_prior(p, OLD, np.zeros(3))
    with pytest.raises(UserError, match="one galaxy or more"):
        estimate_prior(p * np.nan, OLD)
