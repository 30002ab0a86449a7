"""How often what a machine got wrong is tried again, and how long for: all such numbers, with their reasons.

A request to a store, a task, a shard and a stage are each tried again by who knows that it may be done twice.
They stand one in the other, so that a larger number here may multiply what is waited for in the end.
"""

from __future__ import annotations

__all__ = [
    "CLAIM_ATTEMPTS",
    "CLAIM_READS",
    "CONFLICT_ATTEMPTS",
    "FINISH_RETRIES",
    "FIRST_CONTACT_ATTEMPTS",
    "FIRST_WAIT_SECONDS",
    "HEAD_PATIENCE_SECONDS",
    "HEAD_RETRY_SECONDS",
    "HOPELESS_SHARDS",
    "LOADER_RESTARTS",
    "LONGEST_WAIT_SECONDS",
    "MAX_DEATHS",
    "MAX_DEATHS_OF_A_GROUP",
    "MAX_RAISED",
    "MAX_STREAMS",
    "SCORER_RESTARTS",
    "SECONDS_BETWEEN_SHARD_ATTEMPTS",
    "SHARD_ATTEMPTS",
    "STAGE_FAILURES",
    "STORE_ATTEMPTS",
    "STORE_PATIENCE_SECONDS",
    "TASK_RETRIES",
]

# A request to a store (`pipeline.storage.retries`), after waits that double from the first to the longest.
STORE_ATTEMPTS = 8
FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 10.0
# No further attempt begins later than this after the first, though each waited for a dead connection.
STORE_PATIENCE_SECONDS = 90.0
# An endpoint that never answered is more likely a mistake than an outage: it is not waited for as long.
FIRST_CONTACT_ATTEMPTS = 4
# A key that is made if there is none (`pipeline.storage.s3_store`), and at which others write meanwhile.
CONFLICT_ATTEMPTS = 5

# The claim of an output folder (`pipeline.lease`), of which another run may have taken the number.
CLAIM_ATTEMPTS = 5
# And the reading of one, which is not whole from its first moment where there are no links.
CLAIM_READS = 3

# The head of a cluster whose job is followed (`pipeline.cluster_jobs`): the job does not depend on it.
HEAD_PATIENCE_SECONDS = 300.0
HEAD_RETRY_SECONDS = 2.0

# A Ray task (`pipeline.task_pool`) that raised an OSError or whose worker died; what kills four is the task.
TASK_RETRIES = 3

# A shard that a store which was away ended (`pipeline.classification.shard_classifier`): each request to it
# is tried for a minute and a half by itself, and it may be away for longer.
SHARD_ATTEMPTS = 4
SECONDS_BETWEEN_SHARD_ATTEMPTS = 30.0

# A shard over the lives of the workers that classify (`pipeline.classification.attempts`). One whose worker
# died so often is set aside: it may well be what kills them.
MAX_DEATHS = 4
# One of a group may be what kills workers: the group is soon given up, and its shards are tried one by one.
MAX_DEATHS_OF_A_GROUP = 2
# What raises in two processes is no fault of a process.
MAX_RAISED = 2
# So many shards given up for what they raised, and not one classified, are no fault of the shards.
HOPELESS_SHARDS = 3
# Streams until each shard has its entry: Ray has lost a task when a worker and its node died together.
MAX_STREAMS = 3

# A stage of a training (`pipeline.training.stage_fit`): a lost node or worker, from the last checkpoint on.
STAGE_FAILURES = 3
# The reader of windows (`pipeline.training.cutout_blocks`) keeps nothing that it could not read again: Ray
# starts it again without end, and its callers ask again.
LOADER_RESTARTS = -1
# The scorer of pairs (`pipeline.training.pairs`): its arguments refer to the object store, and what is lost
# there ends the run, to go on from there.
SCORER_RESTARTS = 0
# What comes after the stages (`pipeline.training.finishing`) takes minutes, and a node may be lost meanwhile.
FINISH_RETRIES = 1
