"""The Ray cluster launcher accepts cluster.yaml; checked as `ray up` does, without a cloud."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

ROOT = Path(__file__).parents[1]
CLUSTER_YAML = ROOT / "cluster.yaml"


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


def pins(name: str) -> dict[str, str]:
    """Package and version of each line of a constraints file."""
    lines = [line for line in (ROOT / "deploy" / name).read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_a_cluster_has_the_versions_that_are_tested(config: dict[str, Any]) -> None:
    tested = pins("constraints.txt")
    assert set(tested) == {"ray", "torch", "torchvision"}
    assert tested == {name: version(name).partition("+")[0] for name in tested}
    assert set(pins("constraints-cu128.txt")) == set(tested)
    assert pins("constraints-cu128.txt")["ray"] == tested["ray"]
    assert f"rayproject/ray:{tested['ray']}-py311" == config["docker"]["head_image"]
    assert "deploy/constraints.txt" in (ROOT / "Makefile").read_text()


def test_what_is_installed_is_all_that_the_verbs_use(config: dict[str, Any]) -> None:
    (install,) = config["setup_commands"]
    assert '--constraint "$HOME/hiwl/deploy/constraints.txt"' in install
    extras = set(re.search(r"\[(.+?)\]", install)[1].split(","))  # type: ignore[index]
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras <= set(offered)
    assert {"figures", "lite", "s3"} <= extras


def test_every_node_can_use_its_gpu_and_reach_the_bucket(config: dict[str, Any]) -> None:
    for node in prepare_config(config)["available_node_types"].values():
        # What Ray takes for a node without one is years older than the driver that the wheel of torch needs.
        assert "base-oss-nvidia-driver-gpu-ubuntu" in node["node_config"]["ImageId"]
        assert node["node_config"]["IamInstanceProfile"] == {"Name": "hiwl-cluster"}
    assert (
        "add-role-to-instance-profile --instance-profile-name hiwl-cluster"
        in (ROOT / "docs" / "cluster.md").read_text()
    )


def test_what_spills_goes_to_the_disks_of_the_machine(config: dict[str, Any]) -> None:
    (prepared,) = config["initialization_commands"]
    (mounted,) = [option for option in config["docker"]["run_options"] if option.startswith("--volume")]
    outside, inside = mounted.removeprefix("--volume ").split(":")
    assert prepared.endswith(outside)
    for kind in ("head", "worker"):
        (start,) = [command for command in config[f"{kind}_start_ray_commands"] if "ray start" in command]
        assert f"--object-spilling-directory={inside}" in start


@pytest.mark.parametrize(
    ("demand", "first", "second"),
    [
        ({"CPU": 2}, "cpu_spot", "cpu_on_demand"),
        ({"CPU": 12, "GPU": 1}, "gpu_spot", "gpu_on_demand"),
    ],
)
def test_spot_machines_come_first_and_others_where_there_are_none(
    config: dict[str, Any], demand: dict[str, int], first: str, second: str
) -> None:
    types = AutoscalingConfig(prepare_config(config)).get_node_type_configs()

    def started(lately_had: dict[str, float]) -> set[str]:
        asked = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=types,
            max_num_nodes=config["max_workers"] + 1,
            resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand)]),
            recoverable_resource_availabilities=lately_had,
        )
        scheduled = ResourceDemandScheduler(None).schedule(asked)
        return {launch.instance_type for launch in scheduled.to_launch}

    assert first in started({})
    assert second not in started({})
    assert second in started({first: 0.0})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("cluster_nam",), "hiwl"),
        (("max_workers",), "twelve"),
        (("available_node_types", "cpu_spot", "resources", "CPU"), -1),
        (("available_node_types", "cpu_spot", "max_worker"), 8),
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
