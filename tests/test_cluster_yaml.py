"""The Ray cluster launcher accepts cluster.yaml; checked as `ray up` does, without a cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER_YAML = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER_YAML.read_text())
    return loaded


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_the_head_offers_no_cpu(config: dict[str, Any]) -> None:
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["max_workers"] == 0
    [start] = [command for command in config["head_start_ray_commands"] if "ray start" in command]
    assert "--head --num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start


def test_cpu_and_gpu_workers_come_and_go(config: dict[str, Any]) -> None:
    workers = prepare_config(config)["available_node_types"]
    del workers[config["head_node_type"]]
    assert all(w["min_workers"] == 0 and w["max_workers"] > 0 for w in workers.values())
    assert any(not w["resources"].get("GPU") for w in workers.values())
    assert any(w["resources"].get("GPU") for w in workers.values())


def test_every_node_asks_for_the_token(config: dict[str, Any]) -> None:
    starts = [
        command
        for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_images_hold_one_ray_and_this_python(config: dict[str, Any]) -> None:
    images = {config["docker"]["head_image"], config["docker"]["worker_image"]}
    images |= {w["docker"]["worker_image"] for w in config["available_node_types"].values() if "docker" in w}
    assert {image.removesuffix("-gpu") for image in images} == {"rayproject/ray:2.60.0-py311"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cluster_nam",), "hiwl"),
        (("max_workers",), "twelve"),
        (("available_node_types", "cpu_worker", "resources", "CPU"), -1),
        (("available_node_types", "cpu_worker", "max_worker"), 8),
        (("auth", "user"), "ubuntu"),
    ],
)
def test_a_broken_key_is_refused(config: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config))


def test_an_unknown_head_type_is_refused(config: dict[str, Any]) -> None:
    config["head_node_type"] = "nobody"
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(config))


def test_the_on_premise_variant_of_its_comment_is_accepted(config: dict[str, Any]) -> None:
    lines = CLUSTER_YAML.read_text().splitlines()
    variant = "\n".join(line[4:] for line in lines if line.startswith(("#   provider:", "#   auth:")))
    del config["available_node_types"], config["head_node_type"]
    config.update(yaml.safe_load(variant))
    validate_config(prepare_config(config))
