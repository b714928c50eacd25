"""The shards of a synthetic set, written by workers of Ray that each load the generator once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tqdm.auto import tqdm

from clinsynth.cluster import RETRIES, Workplace, check_sizes, connected
from clinsynth.synthesis.arguments import WorkersArguments
from clinsynth.synthesis.shards import ShardPlan

WriteShard = Callable[[int], None]
"""Writes the shard of that number, if it is missing."""


class Worker:
    """One that writes shards of a set; in a process of its own, and begun again where it is lost.

    Attributes:
        load: from the command's arguments to what writes a shard; called in the worker, with the first shard, so that
            what it raises reaches the command as it is.
    """

    def __init__(self, load: Callable[[Any], WriteShard], args: Any, place: Workplace) -> None:
        self.load, self.args, self.place = load, args, place
        self.write_shard: WriteShard | None = None

    def write(self, shard: int) -> None:
        if self.write_shard is None:
            self.place.enter()
            self.write_shard = self.load(self.args)
        self.write_shard(shard)


def write_on_ray(plan: ShardPlan, args: WorkersArguments, load: Callable[[Any], WriteShard]) -> None:
    """Write the missing shards of a plan that is begun; each worker has one shard at a time.

    A shard is a file that is there as a whole or not at all, and its rows depend on their numbers alone: what a lost
    worker had at hand is drawn again, by it where it is begun anew, and comes out the same.

    Raises:
        ValueError: no cluster, no room in it for a worker, a worker that is lost too often, or the command itself runs
            in several processes.
        Exception: what a worker raised.
    """
    if plan.num_processes > 1:
        raise ValueError("--engine ray starts processes of its own; start the command once, without a launcher")
    missing = deque(shard for shard in range(plan.num_shards) if not plan.path(shard).exists())
    if not missing:
        return
    rows = sum(len(plan.rows(shard)) for shard in missing)
    with connected(args.address) as ray, tqdm(total=len(plan.labels), desc="generate", unit=plan.thing) as progress:
        progress.update(len(plan.labels) - rows)
        busy: dict[Any, tuple[Any, int]] = {}
        for worker in hire(ray, args, len(missing), load, Workplace.of(plan.output_dir)):
            shard = missing.popleft()
            busy[worker.write.remote(shard)] = (worker, shard)
        while busy:
            (ended, *_), _ = ray.wait(list(busy))
            worker, shard = busy.pop(ended)
            try:
                ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise ValueError(f"a worker was lost too often ({reason}); the finished shards are kept") from error
            progress.update(len(plan.rows(shard)))
            if missing:
                shard = missing.popleft()
                busy[worker.write.remote(shard)] = (worker, shard)
            else:
                ray.kill(worker)  # and its place is free for one that was lost with its machine


def hire(
    ray: Any, args: WorkersArguments, most: int, load: Callable[[Any], WriteShard], place: Workplace
) -> list[Any]:
    """Workers, at most so many."""
    totals = ray.cluster_resources()
    gpus = int(totals.get("GPU", 0))
    need = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": 1.0}
    check_sizes(ray.nodes(), {"a worker of --engine ray": need})
    count = min(args.workers or gpus or int(totals["CPU"]), most)
    # the restarts are what ends it: a call is tried again until the cluster has noticed that a machine is gone
    options = {"num_cpus": 1, "num_gpus": int(gpus > 0), "max_restarts": RETRIES, "max_task_retries": -1}
    worker = ray.remote(**options)(Worker)
    return [worker.remote(load, args, place) for _ in range(count)]
