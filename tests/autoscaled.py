"""A Ray that starts and ends nodes by itself, all of them processes of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from ray.util import get_node_ip_address

from tests.object_store import free_ports

HEAD = "f" * 51 + "00000"
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
EMPTY_LISTS = (
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "initialization_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)


@contextmanager
def autoscaled_ray(folder: Path, warm: int, most: int) -> Iterator[dict[str, str]]:
    """Run one for the length of a ``with`` block.

    Parameters
    ----------
    folder : Path
        For its configuration and its log.
    warm, most : int
        Nodes with two CPUs each beside a head without any: those that stay, and those that may be.

    Yields
    ------
    dict of str
        Environment of a driver.
    """
    (port,) = free_ports(1)
    address = f"{get_node_ip_address()}:{port}"
    node = {"resources": {"CPU": 2, "object_store_memory": 80_000_000}, "node_config": {}}
    config = {
        "cluster_name": "fake",
        "max_workers": most,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",
            "module": PROVIDER,
            "gcs_address": address,
            "launch_multiple": True,
            "head_node_id": HEAD,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {**node, "min_workers": warm, "max_workers": most},
        },
        "head_node_type": "ray.head.default",
        **{name: [] for name in EMPTY_LISTS},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "docker": {},
        "auth": {},
    }
    (folder / "autoscaler.json").write_text(json.dumps(config))
    driver = {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": address}
    words = ["--head", "--block", f"--port={port}", "--num-cpus=0", "--object-store-memory=80000000"]
    words += ["--include-dashboard=false", f"--autoscaling-config={folder / 'autoscaler.json'}"]
    head = {
        "RAY_AUTH_MODE": "disabled",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    }
    log = folder / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("ray")), "start", *words],
            env=os.environ | head,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while "--block" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield driver
        finally:
            everything = [psutil.Process(process.pid)] if process.poll() is None else []
            everything += [child for head in everything for child in head.children(recursive=True)]
            for one in everything:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(everything, timeout=10)
            process.wait(10)
