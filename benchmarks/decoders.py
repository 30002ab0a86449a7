"""The JPEG decoders and resizers that `benchmarks/decode.py` compares, those that are installed."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate

__all__ = ["Decoder", "Resizer", "find_decoders", "find_resizers"]

Decoder = Callable[[bytes], np.ndarray]
Resizer = Callable[[np.ndarray, int, int], np.ndarray]


def find_decoders() -> tuple[dict[str, Decoder], dict[str, Decoder]]:
    """Decoders of the whole image and of half its size, from bytes to uint8 of shape (H, W, 3)."""

    def pillow(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))

    def pillow_half(data: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            image.draft("RGB", (image.width // 2, image.height // 2))
            return np.asarray(image.convert("RGB"))

    full: dict[str, Decoder] = {"pillow": pillow}
    half: dict[str, Decoder] = {"pillow 1/2": pillow_half}
    if simplejpeg := found("simplejpeg"):
        mine = threading.local()

        def into_buffer(data: bytes) -> np.ndarray:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if getattr(mine, "size", 0) < height * width * 3:
                mine.size = height * width * 3
                mine.buffer = bytearray(mine.size)
            return simplejpeg.decode_jpeg(data, buffer=mine.buffer)

        def into_half(data: bytes) -> np.ndarray:
            # It takes the smallest scale that gives so many pixels.
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            return simplejpeg.decode_jpeg(data, min_height=-(-height // 2), min_width=-(-width // 2))

        full["simplejpeg"] = simplejpeg.decode_jpeg
        full["simplejpeg, one buffer"] = into_buffer
        half["simplejpeg 1/2"] = into_half
    if cv2 := found("cv2"):
        cv2.setNumThreads(1)
        full["cv2"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if tv := found("torchvision.io"):
        full["torchvision.io"] = lambda data: (
            tv.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), tv.ImageReadMode.RGB)
            .permute(1, 2, 0)
            .numpy()
        )
    if turbojpeg := found("turbojpeg"):
        try:
            turbo = turbojpeg.TurboJPEG()
        except RuntimeError:
            print("turbojpeg is left out: the library libturbojpeg is not found", file=sys.stderr)
        else:
            full["turbojpeg"] = lambda data: turbo.decode(data, pixel_format=turbojpeg.TJPF_RGB)
            half["turbojpeg 1/2"] = lambda data: turbo.decode(
                data, pixel_format=turbojpeg.TJPF_RGB, scaling_factor=(1, 2)
            )
    return full, half


def find_resizers() -> dict[str, Resizer]:
    """From pixels, the side of the central square and the wanted one to uint8 of shape (size, size, 3)."""

    def pillow(pixels: np.ndarray, crop: int, size: int) -> np.ndarray:
        return np.asarray(
            Image.fromarray(center(pixels, crop)).resize((size, size), Image.Resampling.BILINEAR)
        )

    def torch_bytes(pixels: np.ndarray, crop: int, size: int) -> np.ndarray:
        # Without a copy: the permuted array is what "channels last" means.
        image = torch.from_numpy(center(pixels, crop))[None].permute(0, 3, 1, 2)
        small = interpolate(image, (size, size), mode="bilinear", antialias=True)
        return small[0].permute(1, 2, 0).numpy()

    resizers: dict[str, Resizer] = {"pillow": pillow, "torch": torch_bytes}
    if cv2 := found("cv2"):
        resizers["cv2 area"] = lambda pixels, crop, size: cv2.resize(
            center(pixels, crop), (size, size), interpolation=cv2.INTER_AREA
        )
    return resizers


def center(pixels: np.ndarray, crop: int) -> np.ndarray:
    """The central square."""
    top, left = (pixels.shape[0] - crop) // 2, (pixels.shape[1] - crop) // 2
    return pixels[top : top + crop, left : left + crop]


def found(name: str) -> Any:
    """The module, or None and a line that says so."""
    try:
        return import_module(name)
    except ImportError:
        print(f"{name} is left out: it is not installed", file=sys.stderr)
        return None
