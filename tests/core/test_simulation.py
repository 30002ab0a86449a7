"""Simulated galaxies: reproducible, shaped like their class, with votes that say so."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hiwl_core.errors import UserError
from hiwl_core.simulated_image import encode_image, render_bands
from hiwl_core.simulated_morphology import CLASS_COUNTS, Morphology
from hiwl_core.simulated_votes import VOTE_COLUMNS
from hiwl_core.simulation import check_simulation, describe_object, object_id, simulate_galaxy

OBJECTS = 2000


@pytest.fixture(scope="module")
def sky():
    return [describe_object(7, index) for index in range(OBJECTS)]


def classes_met(votes):
    # Written out on its own, in the words of the paper, so as not to repeat the code's mistake.
    met = []
    smooth, featured = votes["Class1.1"] > 0.469, votes["Class1.2"] > 0.430
    if smooth and votes["Class7.1"] > 0.50:
        met.append("CRS")
    if smooth and votes["Class7.2"] > 0.50:
        met.append("IBS")
    if smooth and votes["Class7.3"] > 0.50:
        met.append("CSS")
    if featured and votes["Class2.1"] > 0.602:
        met.append("EO")
    if featured and votes["Class2.2"] > 0.715 and votes["Class4.1"] > 0.619:
        met.append("SPI")
    return met


def smooth_galaxy(truth, axis_ratio, position_angle):
    return Morphology(
        truth=truth,
        ambiguous=False,
        petrosian_r90=9.0,
        axis_ratio=axis_ratio,
        position_angle=position_angle,
        sersic_index=2.0,
        bulge_fraction=1.0,
        surface_brightness=80.0,
        redness=0.8,
    )


def measured_axis_ratio(image):
    """From the second moments of the light within the middle third, above a quarter of the peak."""
    light = np.asarray(Image.open(io.BytesIO(image)).convert("L"), dtype=float)
    third = light.shape[0] // 3
    light = light[third:-third, third:-third]
    light = np.clip(light - 0.25 * light.max(), 0, None)
    y, x = np.indices(light.shape)
    moments = np.cov(np.stack([x.ravel(), y.ravel()]), aweights=light.ravel())
    minor, major = np.sqrt(np.linalg.eigvalsh(moments))
    return minor / major


def test_clean_votes_meet_the_rule_of_their_class_alone(sky):
    for described in sky:
        expected = [] if described.morphology.ambiguous else [described.morphology.truth]
        assert classes_met(described.votes) == expected


def test_votes_are_the_kaggle_columns_with_six_decimals(sky):
    assert len(VOTE_COLUMNS) == 37
    for described in sky[:200]:
        assert tuple(described.votes) == VOTE_COLUMNS
        assert all(0 <= value <= 1 and value == round(value, 6) for value in described.votes.values())


def test_answers_sum_to_those_who_were_asked(sky):
    table = {column: np.array([described.votes[column] for described in sky]) for column in VOTE_COLUMNS}
    parents = {2: "1.2", 3: "2.2", 4: "2.2", 5: "2.2", 7: "1.1", 8: "6.1", 9: "2.1", 10: "4.1", 11: "4.1"}
    for task in range(1, 12):
        answers = sum(table[column] for column in VOTE_COLUMNS if column.startswith(f"Class{task}."))
        asked = table[f"Class{parents[task]}"] if task in parents else 1.0
        np.testing.assert_allclose(answers, asked, atol=1e-9)


def test_classes_come_in_the_real_proportions(sky):
    drawn = Counter(described.morphology.truth for described in sky)
    for name, count in CLASS_COUNTS.items():
        share = count / sum(CLASS_COUNTS.values())
        assert abs(drawn[name] / OBJECTS - share) < 4 * np.sqrt(share * (1 - share) / OBJECTS)
    ambiguous = sum(described.morphology.ambiguous for described in sky)
    assert abs(ambiguous / OBJECTS - 0.15) < 0.035
    assert not any(describe_object(7, index, ambiguous=0.0).morphology.ambiguous for index in range(100))


def test_ids_have_18_digits_and_do_not_repeat(sky):
    ids = {described.object_id for described in sky} | {object_id(8, index) for index in range(OBJECTS)}
    assert len(ids) == 2 * OBJECTS
    assert all(isinstance(number, int) and len(str(number)) == 18 for number in ids)
    assert len(str(object_id(999_999, 999_999_999))) == 18


def test_positions_are_within_the_footprint(sky):
    assert all(110 <= described.ra <= 260 and 0 <= described.dec <= 60 for described in sky)


@pytest.mark.parametrize("size", [64, 256])
def test_the_picture_is_a_jpeg_of_the_size(size):
    pytest.importorskip("galsim")
    galaxy = simulate_galaxy(1, 3, size=size)
    picture = Image.open(io.BytesIO(galaxy.image))
    assert picture.format == "JPEG"
    assert picture.size == (size, size)
    assert galaxy.pixel_scale * size == pytest.approx(8.48 * galaxy.morphology.petrosian_r90)


def test_a_galaxy_is_a_function_of_seed_and_number():
    pytest.importorskip("galsim")
    assert simulate_galaxy(1, 5) == simulate_galaxy(1, 5)
    assert simulate_galaxy(1, 5).image != simulate_galaxy(2, 5).image
    assert simulate_galaxy(1, 5).image != simulate_galaxy(1, 6).image
    assert simulate_galaxy(1, 5).votes == describe_object(1, 5).votes == simulate_galaxy(1, 5, size=64).votes


@pytest.mark.parametrize("position_angle", [0.0, 0.7, 2.0])
def test_elongation_orders_the_smooth_classes(position_angle):
    pytest.importorskip("galsim")
    measured = []
    for truth, axis_ratio in [("CRS", 0.95), ("IBS", 0.58), ("CSS", 0.27)]:
        galaxy = smooth_galaxy(truth, axis_ratio, position_angle)
        bands = render_bands(np.random.default_rng(1), galaxy, 256)
        measured.append(measured_axis_ratio(encode_image(bands, 256)))
    assert measured[0] > 0.88
    assert 0.5 < measured[1] < 0.8
    assert 0.2 < measured[2] < 0.5


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ((0, 1, 256, 0.15), "count 0"),
        ((10, -1, 256, 0.15), "seed -1"),
        ((10, 1, 63, 0.15), "size 63"),
        ((10, 1, 256, 1.0), r"ambiguous 1\.0"),
        ((10, 1, 256, float("nan")), "ambiguous nan"),
    ],
)
def test_bad_parameters_are_named(parameters, named):
    with pytest.raises(UserError, match=named):
        check_simulation(*parameters)


def test_without_galsim_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "galsim", None)
    with pytest.raises(UserError, match=r"pip install 'hiwl\[simulate\]'"):
        simulate_galaxy(1, 5)
