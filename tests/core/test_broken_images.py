import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.decoding import decode_image
from hiwl_core.statuses import STATUSES, UnreadableCutout
from tests.broken_inputs import (
    INPUTS,
    SMALLEST,
    BrokenInput,
    bomb_jpeg,
    bomb_png,
    broken_inputs,
    encode,
    fits_file,
    png_16_bit,
)

pytestmark = pytest.mark.filterwarnings("ignore:File may have been truncated")

TRANSFORM = EvalTransform(Preprocessing(SMALLEST, 32, (0, 0, 0), (1, 1, 1)))
# For each file, its status and by how many kB the peak of the process's memory rose. Without torch, whose
# import takes memory that would hide that of an image; not by getrusage, which inherits a parent's peak.
MEASURE = """
import re, sys
from hiwl_core.decoding import decode_image
from hiwl_core.statuses import UnreadableCutout
assert "torch" not in sys.modules
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
for name in sys.argv[1:]:
    content = open(name, "rb").read()
    before = peak()
    try:
        status = decode_image(content) and "ok"
    except UnreadableCutout as error:
        status = error.status
    print(status, peak() - before)
"""


def test_there_are_a_hundred_of_more_than_twenty_kinds() -> None:
    assert len(INPUTS) == 100
    assert len({broken.kind for broken in INPUTS}) >= 20
    assert {broken.expected_status for broken in INPUTS} <= set(STATUSES)
    assert broken_inputs() == INPUTS


@pytest.mark.parametrize("broken", INPUTS, ids=lambda broken: broken.kind)
def test_status_of_a_broken_input(broken: BrokenInput) -> None:
    status, pixels = read_cutout(broken.image, (TRANSFORM,), SMALLEST)[:2]
    assert status == broken.expected_status
    assert (pixels is not None) == (status == "ok")


@pytest.mark.parametrize("broken", INPUTS, ids=lambda broken: broken.kind)
def test_training_takes_what_prediction_takes(broken: BrokenInput) -> None:
    if broken.image is None or broken.expected_status in ("ok", "too_small"):
        if broken.image is not None:
            assert decode_image(broken.image).image.mode == "RGB"
        return
    with pytest.raises(UnreadableCutout) as caught:
        decode_image(broken.image)
    assert caught.value.status == broken.expected_status


@pytest.mark.parametrize("value", ["text", 7, [1, 2], {"bytes": b""}, 1.5])
def test_what_is_no_bytes_at_all_is_undecodable(value: object) -> None:
    assert read_cutout(value, (TRANSFORM,), SMALLEST)[:2] == ("undecodable", None)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_no_bomb_takes_memory(tmp_path: Path) -> None:
    cases = [
        (encode(Image.new("RGB", (80, 80)), "PNG"), "ok", 64),
        (bomb_png(), "too_large", 16),
        (bomb_jpeg(), "too_large", 16),
        # Above Pillow's warning, below its error.
        (bomb_png(10_000), "too_large", 16),
        # The largest that is decoded, in the form that takes most memory.
        (encode(Image.effect_noise((4096, 4096), 50), "JPEG", progressive=True), "ok", 512),
        (png_16_bit(np.zeros((4096, 4096), np.uint16)), "ok", 512),
        (fits_file(np.ones((4096, 4096), np.int16)), "ok", 512),
    ]
    files = [str(tmp_path / str(index)) for index in range(len(cases))]
    for name, (content, _, _) in zip(files, cases, strict=True):
        Path(name).write_bytes(content)
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, *files],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    got = [line.split() for line in out.splitlines()]
    assert [status for status, _ in got] == [status for _, status, _ in cases]
    grown = np.cumsum([int(kilobytes) / 1024 for _, kilobytes in got])
    assert [mb < limit for mb, (_, _, limit) in zip(grown, cases, strict=True)] == [True] * len(cases), grown


def test_16_bits_become_8_by_division_not_by_clipping() -> None:
    gray = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    color = np.repeat(gray[..., None], 3, axis=2)
    for pixels in (gray, color):
        decoded = np.asarray(decode_image(png_16_bit(pixels)).image)
        assert np.array_equal(decoded, np.repeat((gray // 256)[..., None], 3, axis=2))


def test_cmyk_keeps_its_colors() -> None:
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(smooth, (64, 1)), np.tile(smooth[:, None], 64), np.full((64, 64), 90)], 2)
    image = Image.fromarray(pixels.astype(np.uint8))
    decoded = np.asarray(decode_image(encode(image.convert("CMYK"), "JPEG", quality=95)).image)
    assert np.abs(decoded.astype(int) - pixels).mean() < 4


def test_what_is_transparent_is_black() -> None:
    pixels = np.full((64, 64, 4), 255, np.uint8)
    pixels[:32, :, 3] = 0
    decoded = np.asarray(decode_image(encode(Image.fromarray(pixels), "PNG")).image)
    assert (decoded[:32] == 0).all()
    assert (decoded[32:] == 255).all()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    decoded = decode_image(encode(frames[0], "PNG", save_all=True, append_images=frames[1:])).image
    assert decoded.getpixel((5, 5)) == (255, 0, 0)


def test_an_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (80, 64))
    assert decode_image(encode(image, "JPEG", exif=exif)).image.size == (80, 64)
