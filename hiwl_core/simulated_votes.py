"""Vote fractions of simulated galaxies, in the form of the Galaxy Zoo 2 decision tree.

The 37 columns are those of the Kaggle challenge's table: tree-cumulative fractions, in which the answers of a
question sum to the fraction of people who were asked it (Willett et al. 2013, MNRAS 435, 2835, figure 1 and
table 2).
"""

from __future__ import annotations

import numpy as np

from hiwl_core.simulated_morphology import Morphology

__all__ = ["VOTE_COLUMNS", "clean_classes", "draw_votes"]

ANSWERS = {1: 3, 2: 2, 3: 2, 4: 2, 5: 4, 6: 2, 7: 3, 8: 7, 9: 3, 10: 3, 11: 6}
VOTE_COLUMNS = tuple(
    f"Class{task}.{answer + 1}" for task, count in ANSWERS.items() for answer in range(count)
)
"""``Class1.1`` to ``Class11.6``, in the order of the Kaggle table."""

# The answer that leads to each question; questions 1 and 6 are put to everyone.
PARENTS = {
    2: (1, 2),
    3: (2, 2),
    4: (2, 2),
    5: (2, 2),
    7: (1, 1),
    8: (6, 1),
    9: (2, 1),
    10: (4, 1),
    11: (4, 1),
}
ASKING_ORDER = (1, 6, 2, 7, 8, 3, 4, 5, 9, 10, 11)
MILLION = 1_000_000

CLEAN_RULES = {
    "CRS": (("Class1.1", 0.469), ("Class7.1", 0.50)),
    "IBS": (("Class1.1", 0.469), ("Class7.2", 0.50)),
    "CSS": (("Class1.1", 0.469), ("Class7.3", 0.50)),
    "EO": (("Class1.2", 0.430), ("Class2.1", 0.602)),
    "SPI": (("Class1.2", 0.430), ("Class2.2", 0.715), ("Class4.1", 0.619)),
}


def clean_classes(votes: dict[str, float]) -> list[str]:
    """Classes whose clean-sample rule the votes meet: every fraction strictly above its threshold.

    The thresholds are those of Willett et al. (2013), table 3, as used by Ma et al. (2023).
    """
    return [
        name for name, rule in CLEAN_RULES.items() if all(votes[column] > least for column, least in rule)
    ]


def draw_votes(rng: np.random.Generator, galaxy: Morphology) -> dict[str, float]:
    """Draw what people would have said of a galaxy.

    Each question's answers are Dirichlet-distributed around what the galaxy is. Draws are repeated until a
    clean galaxy meets the rule of its own class and of no other, and an ambiguous one meets none; most first
    draws do.

    Parameters
    ----------
    rng : numpy.random.Generator
    galaxy : Morphology

    Returns
    -------
    dict of str to float
        `VOTE_COLUMNS` in order; multiples of 1e-6, whose sums hold exactly but for the float.
    """
    wanted = [] if galaxy.ambiguous else [galaxy.truth]
    expected = _expected_answers(galaxy)
    while True:
        votes = _draw_tree(rng, expected, concentration=18 if galaxy.ambiguous else 35)
        if clean_classes(votes) == wanted:
            return votes


def _draw_tree(
    rng: np.random.Generator, expected: dict[int, list[float]], concentration: float
) -> dict[str, float]:
    # Whole millionths: six decimals in a table, and sums that rounding cannot break.
    millionths: dict[tuple[int, int], int] = {}
    for task in ASKING_ORDER:
        asked = millionths[PARENTS[task]] if task in PARENTS else MILLION
        mean = np.asarray(expected[task]) / sum(expected[task])
        shares = rng.dirichlet(concentration * mean + 0.05)
        edges = np.rint(asked * np.minimum(np.cumsum(shares), 1.0)).astype(np.int64)
        edges[-1] = asked
        for answer, count in enumerate(np.diff(edges, prepend=0), start=1):
            millionths[task, answer] = int(count)
    return {
        f"Class{task}.{answer}": millionths[task, answer] / MILLION
        for task, count in ANSWERS.items()
        for answer in range(1, count + 1)
    }


def _expected_answers(galaxy: Morphology) -> dict[int, list[float]]:
    """Mean shares of the answers to each question, among the people who are asked it."""
    disk = galaxy.truth in ("EO", "SPI")
    bulge = galaxy.bulge_fraction if disk else 0.3
    tight = np.clip((0.5 - abs(galaxy.pitch_angle)) / 0.33, 0.05, 0.95)
    arm_numbers = [0.02, 0.02, 0.02, 0.02, 0.02, 0.2]
    if galaxy.arms:
        arm_numbers[galaxy.arms - 1] += 0.7
    expected = {
        1: {"EO": [0.10, 0.88, 0.02], "SPI": [0.06, 0.92, 0.02]}.get(galaxy.truth, [0.82, 0.16, 0.02]),
        2: [0.92, 0.08] if galaxy.truth == "EO" else [0.03, 0.97] if galaxy.truth == "SPI" else [0.15, 0.85],
        3: [0.7, 0.3] if galaxy.bar else [0.1, 0.9],
        4: [0.93, 0.07] if galaxy.truth == "SPI" else [0.15, 0.85],
        5: [0.30, 0.55, 0.13, 0.02] if bulge < 0.1 else [0.05, 0.50, 0.40, 0.05],
        6: [0.10, 0.90],
        7: {
            "CRS": [0.90, 0.09, 0.01],
            "IBS": [0.08, 0.87, 0.05],
            "CSS": [0.01, 0.11, 0.88],
            "EO": [0.02, 0.28, 0.70],
            "SPI": [0.35, 0.60, 0.05],
        }[galaxy.truth],
        8: [0.05, 0.05, 0.12, 0.18, 0.40, 0.15, 0.05],
        9: [0.75, 0.05, 0.20] if bulge > 0 else [0.20, 0.05, 0.75],
        10: [float(tight), 0.35, float(1 - tight)],
        11: arm_numbers,
    }
    if galaxy.ambiguous:
        expected[1] = [0.42, 0.53, 0.05] if disk else [0.55, 0.40, 0.05]
        expected[2] = [0.55, 0.45] if galaxy.truth == "EO" else [0.15, 0.85]
        expected[4] = [0.45, 0.55]
        expected[7] = [0.04, 0.50, 0.46] if galaxy.truth in ("CSS", "EO") else [0.47, 0.47, 0.06]
    return expected
