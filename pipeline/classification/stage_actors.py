"""Who classifies on a cluster, and on which nodes the shards are read and decoded for that.

A worker that has a GPU can read and decode with its share of its node's CPUs, or be fed by tasks that run
wherever there are CPUs. Such tasks must always find one, or the workers would wait for them for ever: so a
worker that is fed leaves a CPU of its share free, and whatever happens to the other nodes, its own can read.
"""

from __future__ import annotations

from dataclasses import dataclass

from hiwl_core.errors import UserError
from pipeline.classification.computing import ALL_NODES, AUTO, GPU_NODES, Computing
from pipeline.cluster import ClusterResources

__all__ = ["StageActors"]

MAX_ACTORS = 64
# As many as feed a GPU with what has to be resampled, at 2 ms an image: each is a process.
READERS_AN_ACTOR = 12


@dataclass(frozen=True)
class StageActors:
    """The actors that classify: what each takes, and how many there may be.

    Parameters
    ----------
    cpus, gpus : int
        Of one actor.
    room : int
        Actors that the cluster has room for now; 0 if it has nothing yet.
    most : int or None
        Actors that the user allows.
    grows : bool
        Whether nodes may come while they work.
    fed : bool
        Whether tasks on all nodes, of a CPU each, read and decode for them; else they do so themselves.
    """

    cpus: int
    gpus: int
    room: int
    most: int | None
    grows: bool = True
    fed: bool = False

    @classmethod
    def on(cls, cluster: ClusterResources, computing: Computing) -> StageActors:
        """Those that a cluster has room for.

        Raises
        ------
        UserError
            If OpenVINO is asked for and the actors would take GPUs, or if all nodes are to decode for actors
            that take none, or that have a single CPU beside theirs.
        """
        use_gpu = cluster.takes_gpus(computing.gpu)
        if use_gpu and computing.engine == "openvino":
            raise UserError("--engine openvino computes on CPUs: add --no-gpu, or leave the engine out")
        cpus = cluster.cpus_an_actor(use_gpu)
        room = cluster.gpus if use_gpu else cluster.cpus // cpus
        fed = _fed(cluster, use_gpu, computing.decode_on)
        if fed:
            # Of nodes that are yet to come nothing is known but that they must leave one too.
            cpus = min(cpus, cluster.cpus_a_gpu - 1) if cluster.cpus_a_gpu else max(1, cpus - 1)
        return cls(cpus, int(use_gpu), room, computing.workers, cluster.grows, fed)

    @property
    def number(self) -> int:
        """Actors at most.

        They are asked for at once: an autoscaler sees what is wanted, and a node that joins is used.
        """
        return self.most or (max(self.room, MAX_ACTORS) if self.grows else self.room)

    @property
    def expected(self) -> int:
        """Actors that the work is divided for: a node that comes takes of what is left."""
        return min(self.number, self.room or self.number)

    @property
    def readers(self) -> int:
        """Tasks at most that read for the actors; 0 if these do."""
        return READERS_AN_ACTOR * self.number if self.fed else 0

    @property
    def where_decoded(self) -> str:
        """Where shards are decoded, for a line at the start; empty if there is no choice."""
        if not self.gpus:
            return ""
        if self.fed:
            return "all nodes read and decode for the GPU workers (--decode-on gpu-nodes: only these)"
        return "each GPU worker reads and decodes for itself"


def _fed(cluster: ClusterResources, use_gpu: bool, decode_on: str) -> bool:
    """Whether other tasks are to decode for the actors."""
    if decode_on == AUTO:
        # They take the place of the threads of the actors, which would decode nothing then.
        readers = cluster.cpus_without_gpu + cluster.gpus
        enough = readers >= cluster.gpus * cluster.cpus_an_actor(use_gpu)
        return use_gpu and cluster.cpus_a_gpu > 1 and enough
    if decode_on == ALL_NODES and not use_gpu:
        raise UserError(
            f"--decode-on {ALL_NODES}: no worker takes a GPU, so that all nodes decode anyway: leave it out"
        )
    if decode_on == ALL_NODES and cluster.cpus_a_gpu == 1:
        raise UserError(
            f"--decode-on {ALL_NODES}: a node with GPUs has one CPU for each, and none to read with where no "
            f"other node is left: start nodes with --num-cpus of two a GPU, or add --decode-on {GPU_NODES}"
        )
    return decode_on == ALL_NODES
