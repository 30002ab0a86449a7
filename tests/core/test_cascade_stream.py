"""The stream: rows keep their order and results however they are cut, and engines get full batches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hiwl_core.bundle import ModelBundle, load_bundle
from hiwl_core.cascade_stream import CascadeStream, DecodedBatch, Image, SeenBatch
from hiwl_core.engines import Pending, StageAnswer
from hiwl_core.inference import CascadeClassifier
from hiwl_core.looks import Stage
from hiwl_core.taxonomy import GALAXY_ZOO
from tests.bundles import random_bundle
from tests.drawings import CLASSES, draw_galaxy

BROKEN = [b"", None, b"not an image", draw_galaxy("EO", 0)[:500]]
IMAGES = [draw_galaxy(CLASSES[i % 5], i) if i % 7 else BROKEN[i // 7 % 4] for i in range(150)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return load_bundle(random_bundle(tmp_path_factory.mktemp("stream") / "bundle"))


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("cuts", [[], [1, 2, 3], [0, 0, 64, 64, 150], [7 * i for i in range(21)], [149]])
def test_how_images_are_cut_into_batches_does_not_matter(
    bundle: ModelBundle, cuts: list[int], always: bool
) -> None:
    classifier = CascadeClassifier(bundle, always_stage2=always)
    statuses, whole = classifier.classify(IMAGES)
    assert statuses.count("ok") == len(whole.class_indices)
    assert {"ok", "missing", "undecodable"} == set(statuses)
    bounds = list(pairwise([0, *cuts, len(IMAGES)]))
    parts = list(classifier.classify_batches(IMAGES[start:stop] for start, stop in bounds))
    assert [len(given) for given, _ in parts] == [stop - start for start, stop in bounds]
    assert [status for given, _ in parts for status in given] == statuses
    np.testing.assert_array_equal(np.concatenate([p.class_indices for _, p in parts]), whole.class_indices)
    probabilities = np.concatenate([part.probabilities for _, part in parts])
    np.testing.assert_allclose(probabilities, whole.probabilities, atol=1e-6)
    for name, values in whole.stages.items():
        np.testing.assert_allclose(
            np.concatenate([part.stages[name] for _, part in parts]), values, atol=1e-6
        )


def test_stage_2_sees_what_stage_1_routes_on_and_nothing_else(bundle: ModelBundle) -> None:
    _, routed = CascadeClassifier(bundle).classify(IMAGES)
    _, always = CascadeClassifier(bundle, always_stage2=True).classify(IMAGES)
    ran = ~np.isnan(routed.stages["stage2"]).any(axis=1)
    assert 0 < ran.sum() < len(ran)
    np.testing.assert_array_equal(
        ran, [bundle.taxonomy.classes[i] in ("CSS", "EO") for i in routed.class_indices]
    )
    np.testing.assert_allclose(routed.stages["stage2"][ran], always.stages["stage2"][ran], atol=1e-6)
    assert not np.isnan(always.stages["stage2"]).any()


@pytest.mark.parametrize("images", [[], [[]], [[None, b""]], [[], [None], []]])
def test_streams_without_any_galaxy(bundle: ModelBundle, images: list[list[bytes | None]]) -> None:
    parts = list(CascadeClassifier(bundle).classify_batches(images))
    assert [len(statuses) for statuses, _ in parts] == [len(batch) for batch in images]
    assert all(prediction.probabilities.shape == (0, 5) for _, prediction in parts)


def test_a_broken_source_ends_the_stream_and_not_the_classifier(bundle: ModelBundle) -> None:
    classifier = CascadeClassifier(bundle)
    expected = classifier.classify(IMAGES)[1].probabilities

    def breaking() -> object:
        yield IMAGES
        raise OSError("the shard is gone")

    with pytest.raises(OSError, match="gone"):
        list(classifier.classify_batches(breaking()))  # type: ignore[arg-type]
    stream = classifier.classify_batches([IMAGES, IMAGES])
    next(stream)
    stream.close()
    np.testing.assert_allclose(classifier.classify(IMAGES)[1].probabilities, expected, atol=1e-6)


class Echo:
    """An engine that gives back the first pixel of each image, and keeps a record of what it was asked."""

    def __init__(self, batch_size: int, in_flight: int) -> None:
        self.batch_size, self.in_flight = batch_size, in_flight
        self.filled: list[int] = []
        self.seen: list[int] = []
        self.under_way = self.most_under_way = 0

    def submit(self, pixels: np.ndarray, symmetry: int = 0) -> Pending:
        assert pixels.shape == (self.batch_size, 1, 1, 3)
        self.filled.append(int((pixels[:, 0, 0, 1] > 0).sum()))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)

        self.seen.append(symmetry)

        def result() -> StageAnswer:
            self.under_way -= 1
            said = np.eye(4, dtype=np.float32)[pixels[:, 0, 0, 0] % 4]
            # A number above 200 is an image that is not clear at first sight.
            doubtful = (pixels[:, 0, 0, 0] > 200)[:, None] & (symmetry == 0)
            return StageAnswer(np.where(doubtful, 0.8 * said + 0.05, said).astype(np.float32), said)

        return result


def decode_number(images: Sequence[Image]) -> DecodedBatch:
    pixels = np.zeros((8, 1, 1, 3), np.uint8)
    for row, image in enumerate(images):
        # A number in the first channel, and a mark of being there in the second.
        pixels[row, 0, 0, :2] = image[0], 1  # type: ignore[index]
    return DecodedBatch(["ok"] * len(images), dict.fromkeys(KINDS, pixels), np.zeros(len(images), np.int32))


KINDS = {"stage1": 4, "stage2": 4, "stage3": 4}


def sent_on(stage: str, said: np.ndarray) -> dict[str, np.ndarray]:
    """A three goes from the first stage to the second."""
    return {"stage2": said.argmax(1) == 3} if stage == "stage1" else {}


NUMBERS = [bytes([i % 256]) for i in range(1003)]


def run_numbers(stage1: Stage, stage2: Stage) -> list[SeenBatch]:
    with ThreadPoolExecutor(2) as threads:
        stages = {"stage1": stage1, "stage2": stage2}
        stream = CascadeStream(decode_number, threads, 2, stages, sent_on, KINDS)
        return list(stream.run(iter(NUMBERS)))


def test_both_engines_get_full_batches_and_never_more_than_they_take() -> None:
    stage1, stage2 = Echo(8, 3), Echo(16, 2)
    seen = run_numbers(Stage(stage1), Stage(stage2))
    values = np.concatenate([batch.outputs["stage1"].argmax(1) for batch in seen])
    np.testing.assert_array_equal(values, [i % 256 % 4 for i in range(1003)])
    sent = np.concatenate([~np.isnan(batch.outputs["stage2"]).any(axis=1) for batch in seen])
    np.testing.assert_array_equal(sent, values == 3)
    assert stage1.filled == [8] * 125 + [3]
    assert stage2.filled == [16] * 15 + [10]
    assert (stage1.most_under_way, stage2.most_under_way) == (3, 2)
    assert stage1.under_way == stage2.under_way == 0


def test_only_doubtful_images_are_seen_from_all_sides() -> None:
    """In full batches: 201 to 255 of each 256, 193 in all, each from seven other sides."""
    stage1, stage2 = Echo(8, 3), Echo(16, 2)
    seen = run_numbers(Stage(stage1, 8, margin=0.9), Stage(stage2))
    views = np.concatenate([batch.views for batch in seen])
    doubtful = np.array([number[0] > 200 for number in NUMBERS])
    np.testing.assert_array_equal(views, np.where(doubtful, 8, 1))
    first = [filled for filled, symmetry in zip(stage1.filled, stage1.seen, strict=True) if symmetry == 0]
    assert first == [8] * 125 + [3]
    for symmetry in range(1, 8):
        filled = [n for n, seen_as in zip(stage1.filled, stage1.seen, strict=True) if seen_as == symmetry]
        assert sum(filled) == doubtful.sum()
        assert filled[:-1] == [8] * (len(filled) - 1)
    # The mean of one doubtful view of .85 and seven sure ones.
    largest = np.concatenate([batch.outputs["stage1"].max(1) for batch in seen])
    np.testing.assert_allclose(largest[doubtful], (0.85 + 7) / 8, rtol=1e-6)
    assert (stage1.most_under_way, stage1.under_way) == (3, 0)


def test_a_stage_may_send_on_what_it_was_sent_and_stages_may_be_asked_at_once() -> None:
    """Stage 1 sends twos and threes to stage 2, which sends threes to stage 3; or all to both."""
    seen_from = {"stage1": (2, 3), "stage2": (3,), "stage3": ()}
    later = {"stage1": "stage2", "stage2": "stage3"}

    def by_turns(stage: str, said: np.ndarray) -> dict[str, np.ndarray]:
        return {later[stage]: np.isin(said.argmax(1), seen_from[stage])} if stage in later else {}

    def at_once(stage: str, said: np.ndarray) -> dict[str, np.ndarray]:
        return dict.fromkeys(later.values(), np.ones(len(said), bool)) if stage == "stage1" else {}

    values = np.array([i % 256 % 4 for i in range(1003)])
    everyone = np.ones(1003, bool)
    for send_on, expected in (
        (by_turns, {"stage2": values >= 2, "stage3": values == 3}),
        (at_once, {"stage2": everyone, "stage3": everyone}),
    ):
        stages = {name: Stage(Echo(size, 2), 8, 0.9) for name, size in zip(KINDS, (8, 16, 4), strict=True)}
        with ThreadPoolExecutor(2) as threads:
            stream = CascadeStream(decode_number, threads, 2, stages, send_on, KINDS)
            batches = list(stream.run(iter(NUMBERS)))
        for name, rows in expected.items():
            found = np.concatenate([batch.outputs[name] for batch in batches])
            np.testing.assert_array_equal(~np.isnan(found).any(axis=1), rows)
            np.testing.assert_array_equal(found[rows].argmax(1), values[rows])


def test_no_batch_waits_long_for_a_doubtful_image() -> None:
    """One in a thousand is: its part of a catalog is not to wait for seven others like it."""
    engine = Echo(8, 3)
    numbers = [bytes([255 if i == 5 else 4]) for i in range(5000)]
    with ThreadPoolExecutor(2) as threads:
        stages = {"stage1": Stage(engine, 8, 0.9)}
        stream = CascadeStream(decode_number, threads, 2, stages, lambda stage, said: {}, KINDS)
        next(stream.run(iter(numbers)))
    assert sum(engine.filled) < 1200


def test_the_cache_folder_is_the_one_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = random_bundle(tmp_path / "bundle", seed=3, taxonomy=GALAXY_ZOO.flat())
    monkeypatch.setenv("HIWL_CACHE", str(tmp_path / "cache"))
    bundle = load_bundle(folder)
    CascadeClassifier(bundle)
    (place,) = (tmp_path / "cache").iterdir()
    assert place.name.startswith(f"{bundle.model_id}-stage1-")
