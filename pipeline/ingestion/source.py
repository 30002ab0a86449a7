"""What `ingest` reads: a folder or zip of images, or Parquet files, listed one file at a time."""

from __future__ import annotations

import hashlib
import posixpath
import zipfile
from collections.abc import Iterator, Sequence
from typing import Literal

from hiwl_core.errors import UserError
from hiwl_core.image_formats import FITS_SUFFIXES, IMAGE_SUFFIXES, unpacked_name
from pipeline import storage
from pipeline.shards.side_files import in_hats_catalog, is_sky_map, without_side_files
from pipeline.storage import Entry
from pipeline.storage.listing import is_pattern

__all__ = ["Listing", "check_source", "class_folder", "split_band", "stem"]

TABLE_SUFFIX = ".parquet"
TAR_SUFFIX = ".tar"
BAND_SEPARATORS = "-_."


def check_source(source: str, out: str) -> str:
    """The absolute place of a source, if there is one and it does not lie where the shards will be.

    Raises
    ------
    UserError
    """
    place = storage.absolute(source)
    if not storage.exists(source) and not is_pattern(source):
        raise UserError(f"no file or folder {source!r}: check the path (globs need quotes)")
    if f"{_plain(place)}/".startswith(f"{_plain(out)}/"):
        raise UserError(f"{out!r} is where the source is: choose another folder for the shards")
    return place


class Listing:
    """One pass over the files of a source, which says afterwards what they were.

    Parameters
    ----------
    place : str
        Absolute path or URL of a folder, a zip file, a Parquet file or a glob.
    out : str
        The folder that will be written, which is no part of the source though it may lie in it.
    bands : sequence of str
        If given, only FITS files named by one of them count as images, see `split_band`.

    Attributes
    ----------
    place : str
    tables : list of str
        The Parquet files, sorted, if they are the source; known when `images` is exhausted, like the others.
    images, other_files : int
        Images, and files that are neither images nor such tables.
    """

    def __init__(self, place: str, out: str, bands: Sequence[str] = ()) -> None:
        self.place, self._out = place, _plain(out) + "/"
        self._bands = bands
        self.images = self.other_files = 0
        self.tables: list[str] = []
        self._sums = {"images": 0, "tables": 0}

    @property
    def kind(self) -> Literal["files", "zip", "parquet"]:
        """What the source is."""
        if self.place.lower().endswith(".zip"):
            return "zip"
        return "parquet" if self.tables else "files"

    def digest(self) -> str:
        """A hash of the names, sizes and marks of all files that count, whatever order they came in."""
        return f"{self._sums['tables' if self.kind == 'parquet' else 'images']:032x}"

    def iter_images(self) -> Iterator[Entry]:
        """The images, in the order in which the storage lists them.

        Raises
        ------
        UserError
            At the end, if there was neither an image nor a table.
        """
        tables: list[str] = []
        tars = 0
        for entry in self._entries():
            name = entry.path.lower()
            if self._is_image(name):
                self.images += 1
                self._add("images", entry)
                yield entry
            elif name.endswith(TABLE_SUFFIX):
                tables.append(entry.path)
                self._add("tables", entry)
            else:
                self.other_files += 1
                tars += name.endswith(TAR_SUFFIX)
        if self.images or self.kind == "zip" or self._bands:
            self.other_files += len(tables)
        else:
            self.tables = sorted(tables)
        if self.images or self.tables:
            return
        if self._bands:
            raise UserError(
                f"no set of FITS files in {self.place!r}: names such as 1234-{self._bands[0]}.fits, "
                f"1234_{self._bands[0]}.fits or 1234.{self._bands[0]}.fits are wanted for --bands "
                f"{','.join(self._bands)}, and there are {self.other_files} other files"
            )
        if tars:
            raise UserError(
                f"{self.place!r} has WebDataset tars: they are shards already, which train, evaluate and "
                "classify read in place"
            )
        raise UserError(
            f"no image in {self.place!r}: {' or '.join(IMAGE_SUFFIXES)} files, a zip of them, or "
            f"{TABLE_SUFFIX} files are wanted, and there are {self.other_files} other files (globs need "
            "quotes)"
        )

    def _is_image(self, name: str) -> bool:
        if not self._bands:
            return name.endswith(IMAGE_SUFFIXES)
        return name.endswith(FITS_SUFFIXES) and split_band(stem(name), self._bands) is not None

    def _entries(self) -> Iterator[Entry]:
        if self.kind == "zip":
            yield from _zip_entries(self.place)
            return
        entries = storage.iter_entries(self.place)
        if not is_pattern(self.place) and in_hats_catalog(self.place):
            # A catalog has thousands of files, not millions: it may be looked at as a whole.
            found = [entry for entry in entries if not is_sky_map(entry.path)]
            own_rows = set(without_side_files([entry.path for entry in found]))
            entries = (entry for entry in found if entry.path in own_rows)
        for entry in entries:
            if not entry.path.startswith(self._out):
                yield entry

    def _add(self, what: str, entry: Entry) -> None:
        # A sum of hashes does not depend on the order, and unlike XOR does not lose what is there twice.
        text = f"{entry.path}\n{entry.size}\n{entry.mark}".encode(errors="surrogatepass")
        hashed = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest())
        self._sums[what] = (self._sums[what] + hashed) % 2**128


def stem(path: str) -> str:
    """The object id that an image's name is: names such as J1234+56.7.jpg hold dots of their own."""
    return unpacked_name(posixpath.basename(path)).rpartition(".")[0]


def split_band(name: str, bands: Sequence[str]) -> tuple[str, str] | None:
    """Object id and band of the stem ``<id>-<band>``, ``<id>_<band>`` or ``<id>.<band>``, if it is one.

    The band's case does not matter; what returns is spelled as in `bands`.
    """
    for band in bands:
        identifier, ending = name[: -len(band) - 1], name[-len(band) - 1 :]
        if identifier and ending[0] in BAND_SEPARATORS and ending[1:].lower() == band.lower():
            return identifier, band
    return None


def _zip_entries(source: str) -> Iterator[Entry]:
    try:
        with storage.open_input(source) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir() and not storage.hidden(info.filename):
                    yield Entry(info.filename, info.file_size, f"{info.CRC:08x}")
    except (UserError, storage.StoreError):
        raise
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{source!r} is a broken zip file: {error}; make or fetch it again") from None


def class_folder(path: str, place: str) -> str:
    """The folder of a source that an image is in, which names its class where each class has a folder.

    Parameters
    ----------
    path : str
        Of the image: absolute, or as it is named in a zip.
    place : str
        The source; of what a glob finds it is the folder that the image itself is in.

    Returns
    -------
    str
        Empty for an image beside the folders.
    """
    if is_pattern(place):
        return posixpath.basename(posixpath.dirname(path))
    first, slash, _ = path.removeprefix(place.rstrip("/") + "/").partition("/")
    return first if slash else ""


def _plain(path: str) -> str:
    """A path to compare: absolute, without the prefix that local paths may have."""
    return storage.absolute(path).removeprefix("file://").rstrip("/")
