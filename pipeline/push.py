"""Copy a model bundle, byte for byte, to another folder, into object storage or into the Hugging Face Hub."""

from __future__ import annotations

from hiwl_core.bundle import DESCRIPTION, ModelBundle, bundle_from_files
from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.classification.shard_classifier import bundle_reader
from pipeline.hub import in_hub, push_files

__all__ = ["push"]


def push(bundle: str, place: str, private: bool = False) -> str:
    """Copy a bundle; its `model_id` stays.

    Parameters
    ----------
    bundle : str
        A folder, a URL, or the name of a model in the box.
    place : str
        A folder or a URL where there is no bundle yet, or ``hf://owner/name``, where it is a commit more.
    private : bool
        Of a repository in the Hub that is made for it.

    Returns
    -------
    str
        Where it is; of the Hub with the commit as revision, which names these bytes whatever is pushed later.

    Raises
    ------
    UserError
        If the bundle is not whole, there are files of their names at the place, or the Hub refuses.
    """
    read, files = bundle_reader(bundle), dict[str, bytes]()

    def noted(name: str) -> bytes:
        files[name] = read(name)
        return files[name]

    # Checks each file against its hash, and so reads all that belong to it.
    model = bundle_from_files(noted, bundle)
    if in_hub(place):
        return push_files(files, place, _card(model, place), private)
    if private:
        raise UserError(f"--private: it is for repositories of the Hub (hf://OWNER/NAME), not for {place}")
    folder = storage.absolute(place).rstrip("/")
    for name in (DESCRIPTION, *files):
        if storage.exists(f"{folder}/{name}"):
            raise UserError(f"{place} has a {name} already: choose another folder")
    # Its description is last: what has one is whole.
    for name in sorted(files, key=lambda name: name == DESCRIPTION):
        storage.write_bytes(f"{folder}/{name}", files[name])
    return folder


def _card(model: ModelBundle, place: str) -> str:
    """A README for a repository that has none: what is known of the model, for its maker to go on with."""
    scores = model.metrics.get("validation", {})
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in scores.items())
    lines = [
        "---",
        "library_name: hiwl",
        "pipeline_tag: image-classification",
        "tags: [astronomy, galaxies, morphology]",
        "---",
        "",
        "# A model of galaxy morphology",
        "",
        f"Classes: {', '.join(model.taxonomy.classes)}. `model_id` {model.model_id}.",
        *([f"On its validation galaxies: {told}."] if told else []),
        "",
        "```",
        f"hiwl classify {place} 'shards/*.parquet' catalog",
        "```",
    ]
    return "\n".join(lines) + "\n"
