"""Bundles go to and come from a Hugging Face repository, byte for byte; a stand-in takes the Hub's place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

from hiwl_core.errors import IncompleteError, UserError
from jobs.cli import main
from pipeline.classification.shard_classifier import read_bundle
from pipeline.hub import HubPlace
from tests.drawings import CLASSES, write_labeled_shard
from tests.hub import TOKEN, Hub, serve_hub

WHERE = "hf://ada/barred"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    import huggingface_hub.constants as constants

    with serve_hub() as served:
        # As HF_ENDPOINT, HF_HUB_CACHE and HF_TOKEN, which the client reads when it is imported, or later.
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = f"{served.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def hiwl(*words: str) -> tuple[int, str, str]:
    answer = CliRunner().invoke(main, words)
    return answer.exit_code, answer.stdout, answer.stderr


def test_a_bundle_is_pushed_as_a_commit_and_classified_with(
    hub: Hub, random_model: str, calibrated_model: str, tmp_path: Path
) -> None:
    code, said, errors = hiwl("push", random_model, WHERE)
    assert code == 0, errors
    first = said.splitlines()[0].removeprefix("bundle: ")
    assert first == f"{WHERE}@{hub.oid(1)}"
    files = {file.name: file.read_bytes() for file in Path(random_model).iterdir()}
    card = hub.commits["ada/barred"][1].pop("README.md").decode()
    assert hub.commits["ada/barred"] == [{}, files]
    assert not hub.private
    assert f"hiwl classify {WHERE} " in card
    assert "library_name: hiwl" in card.split("---")[1]
    # Another one: the commit before stays what it was.
    code, said, errors = hiwl("push", calibrated_model, f"{WHERE}/calibrated", "--private")
    assert code == 0, errors
    assert read_bundle(first).model_id == read_bundle(random_model).model_id
    assert read_bundle(WHERE).model_id == read_bundle(random_model).model_id
    assert read_bundle(f"{WHERE}/calibrated").model_id == read_bundle(calibrated_model).model_id

    shard = write_labeled_shard(tmp_path / "sky.parquet", dict.fromkeys(CLASSES, 2))
    code, said, errors = hiwl("classify", first, str(shard), str(tmp_path / "catalog"))
    assert code == 0, errors
    code, said, errors = hiwl("push", first, str(tmp_path / "back"))
    assert code == 0, errors
    assert {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()} == files
    code, said, errors = hiwl("push", first, str(tmp_path / "back"))
    assert (code, errors) == (
        2,
        f"Error: {tmp_path}/back has a bundle.json already: choose another folder\n",
    )


def test_mistakes_are_one_line(
    hub: Hub, random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commits["ada/empty"], hub.commits["ada/secret"] = [{}], [{}]
    hub.private.add("ada/secret")
    for path, words in (
        ("hf://ada", r"'hf://ada' is no place in the Hugging Face Hub: write hf://OWNER/NAME, "),
        ("hf://ada/none", r"no repository hf://ada/none, or it is not for this user: .* HF_TOKEN"),
        ("hf://ada/empty@v2", r"hf://ada/empty has no revision 'v2'"),
        ("hf://ada/empty/x", r"no model bundle at 'hf://ada/empty/x': bundle.json is missing"),
    ):
        with pytest.raises(UserError, match=words):
            read_bundle(path)
    code, _, said = hiwl("push", random_model, str(tmp_path / "no"), "--private")
    assert (code, len(said.splitlines()), "--private: it is for repositories" in said) == (2, 1, True)
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(UserError, match="no repository hf://ada/secret, or it is not for this user"):
        read_bundle("hf://ada/secret")
    code, _, said = hiwl("push", random_model, WHERE)
    assert (code, said) == (2, f"Error: {WHERE}: no valid token: give one in HF_TOKEN\n")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.down = True
    with pytest.raises(IncompleteError, match=r"hf://ada/empty: the Hub "):
        read_bundle("hf://ada/empty")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"need the package huggingface_hub: pip install 'hiwl\[hub\]'"):
        read_bundle(WHERE)


@pytest.mark.parametrize("path", ["hf://a/b", "hf://a/b@v1.0", "hf://a/b/c/d", "hf://a/b@main/c"])
def test_a_place_is_written_as_it_is_read(path: str) -> None:
    assert str(HubPlace.parse(path)) == path
