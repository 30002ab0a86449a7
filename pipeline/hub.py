"""Model bundles in repositories of the Hugging Face Hub: ``hf://owner/name``, a folder in one, a revision.

Who is asked is ``HF_ENDPOINT``, or huggingface.co; a token comes from ``HF_TOKEN`` or a login, and is never
written. What was fetched once is kept in the Hub's own cache.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hiwl_core.errors import IncompleteError, UserError, if_missing, words_of

__all__ = ["HubPlace", "in_hub", "push_files", "reader"]

SCHEME = "hf://"
PLACE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/\s@]+))?((?:/[\w.-]+)*)/?")
CARD = "README.md"
REFUSED = {401: "no valid token: give one in HF_TOKEN", 403: "the token in HF_TOKEN may not do this"}


def in_hub(path: str) -> bool:
    """Whether a path is of the Hub."""
    return path.startswith(SCHEME)


@dataclass(frozen=True)
class HubPlace:
    """Where a bundle is in the Hub.

    Parameters
    ----------
    repository : str
        Owner and name.
    revision : str or None
        A branch, a tag or a commit; None for the main branch.
    folder : str
        In the repository; empty for its top.
    """

    repository: str
    revision: str | None = None
    folder: str = ""

    @classmethod
    def parse(cls, path: str) -> HubPlace:
        """A place from a path.

        Raises
        ------
        UserError
            If it is none.
        """
        found = PLACE.fullmatch(path)
        if found is None or ".." in path:
            raise UserError(
                f"{path!r} is no place in the Hugging Face Hub: write hf://OWNER/NAME, "
                "hf://OWNER/NAME/FOLDER, or hf://OWNER/NAME@REVISION"
            )
        return cls(found[1], found[2], found[3].strip("/"))

    def __str__(self) -> str:
        """As `parse` reads it."""
        at = f"@{self.revision}" if self.revision else ""
        return f"{SCHEME}{self.repository}{at}{'/' if self.folder else ''}{self.folder}"

    def name(self, file: str) -> str:
        """Of a file of the bundle, in the repository."""
        return f"{self.folder}/{file}" if self.folder else file


def reader(path: str) -> Callable[[str], bytes]:
    """What reads the files of a bundle by their names, all of one commit.

    Raises
    ------
    UserError
        If the path is no place in the Hub, or the package `huggingface_hub` is missing; the reader, if there
        is no such repository, revision or file.
    """
    place, hub = HubPlace.parse(path), _hub()
    commit: list[str] = []

    def read(name: str) -> bytes:
        with _in_words(place, name):
            found = hub.hf_hub_download(
                place.repository, place.name(name), revision=commit[0] if commit else place.revision
            )
            if not commit:
                # .../snapshots/COMMIT/FILE: the others are to be of the same, whatever is pushed meanwhile.
                commit.append(re.findall(r"[\\/]snapshots[\\/]([^\\/]+)[\\/]", found)[-1])
            with open(found, "rb") as file:
                return file.read()

    return read


def push_files(files: Mapping[str, bytes], path: str, card: str, private: bool = False) -> str:
    """Put a bundle into a repository, as one commit; the repository is made if there is none.

    Parameters
    ----------
    files : mapping of bytes
        See `hiwl_core.bundle.bundle_files`.
    path : str
        Where to, without a revision or with a branch.
    card : str
        The text of a README for a repository that has none.
    private : bool
        Of a repository that is made.

    Returns
    -------
    str
        The path with the commit as its revision.

    Raises
    ------
    UserError
        If the Hub refuses.
    """
    place, hub = HubPlace.parse(path), _hub()
    api = hub.HfApi()
    with _in_words(place, "the repository"):
        api.create_repo(place.repository, private=private, exist_ok=True)
        contents = dict(files)
        if not place.folder and not api.file_exists(place.repository, CARD, revision=place.revision):
            contents[CARD] = card.encode()
        made = api.create_commit(
            place.repository,
            [hub.CommitOperationAdd(place.name(name), content) for name, content in contents.items()],
            commit_message="A model bundle of HIWL",
            revision=place.revision,
        )
    return str(HubPlace(place.repository, made.oid, place.folder))


def _hub() -> Any:
    """The package; without its progress bars, and without statistics of use."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with if_missing(
        "paths such as hf://owner/name need the package huggingface_hub: pip install 'hiwl[hub]'"
    ):
        import huggingface_hub
        from huggingface_hub.utils import disable_progress_bars
    disable_progress_bars()
    return huggingface_hub


@contextmanager
def _in_words(place: HubPlace, what: str) -> Iterator[None]:
    """Errors of the Hub in one line.

    Raises
    ------
    UserError
        For what is not there, or refused.
    IncompleteError
        If the Hub is not reached.
    """
    from huggingface_hub import errors

    where = f"hf://{place.repository}"
    try:
        yield
    except errors.RevisionNotFoundError:
        raise UserError(f"{where} has no revision {place.revision!r}") from None
    except (errors.GatedRepoError, errors.RepositoryNotFoundError):
        raise UserError(
            f"no repository {where}, or it is not for this user: check its name, and give a token in "
            "HF_TOKEN if it is private"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        raise IncompleteError(f"{where}: the Hub was not reached, and {what} is not in its cache") from error
    except errors.EntryNotFoundError:
        raise UserError(f"no model bundle at {str(place)!r}: {what} is missing") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status >= 500:
            raise IncompleteError(f"{where}: the Hub answers with {status}; try again later") from error
        words = REFUSED.get(status) or words_of(error, 300)
        raise UserError(f"{where}: {words}") from None
    except Exception as error:
        # The client's own, which is one or another of the same name.
        if not (isinstance(error, OSError) or type(error).__module__.startswith("httpx")):
            raise
        words = words_of(error, 200)
        raise IncompleteError(f"{where}: the Hub was not reached: {words}") from error
