"""The steps of a study, run: one after the other in this command's order, or as tasks of Ray."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from clinsynth.cluster import RETRIES, Workplace, check_sizes, connected
from clinsynth.processes import end_with_parent, wait_until_free
from clinsynth.run_folder import atomic_write
from clinsynth.study.plan import MARK, Plan, Step

if TYPE_CHECKING:
    from clinsynth.study.arguments import StudyArguments

KEPT = "finished steps are kept: correct the recipe or the data and start the same command again"
GIGABYTE = 2**30
LAST_LINES = 20


def run_steps(plan: Plan) -> None:
    """Run the unfinished steps one after the other, each in a process of its own.

    Raises:
        ValueError: a step failed; the finished ones are kept.
    """
    for step, heading in headed(plan):
        if step.finished:
            print(f"{heading}: done before", flush=True)
            continue
        print(f"{heading}: {step.shown}", flush=True)
        status = run_step(step, start_here)
        if status:
            raise ValueError(f"the step {step.name!r} ended with status {status}, its message is above; {KEPT}")


def headed(plan: Plan) -> Iterator[tuple[Step, str]]:
    """Each step, and its number and name."""
    for number, step in enumerate(plan.steps, start=1):
        yield step, f"[{number}/{len(plan.steps)}] {step.name}"


def run_step(step: Step, start: Callable[[list[str]], int]) -> int:
    """Run one step's command by `start`, mark its folder where it did not fail, and return its status."""
    resumed = step.output_dir.exists()
    started, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status = start([sys.executable, "-m", "clinsynth", *step.words])
    if status:
        return status
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record = {
        "name": step.name,
        "command": step.shown,
        "key": step.key,
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(cpu, 1),
        "resumed": resumed,
    }
    atomic_write(step.output_dir / MARK, json.dumps(record, indent=2) + "\n")
    return 0


def start_here(words: list[str]) -> int:
    """Run a command line that writes where this one does; its status."""
    return subprocess.run(words, preexec_fn=end_with_parent).returncode


def run_steps_on_ray(plan: Plan, args: StudyArguments) -> None:
    """Run the unfinished steps as tasks of Ray, each as soon as those are done that it needs.

    A step whose worker is lost is begun again, and resumes. Where one fails, those that do not need it go on.

    Raises:
        ValueError: a step failed, or asks for what no machine has; the finished ones are kept.
    """
    headings = {step.key: heading for step, heading in headed(plan)}
    waiting = [step for step in plan.steps if not step.finished]
    done = set(headings) - {step.key for step in waiting}
    for key in (key for key in headings if key in done):
        print(f"{headings[key]}: done before", flush=True)
    if not waiting:
        return
    with connected(args.address) as ray:
        nodes = ray.nodes()
        has_gpus = any(node["Resources"].get("GPU") for node in nodes if node["Alive"])
        needs = {step.name: resources_of(step, args.resources, has_gpus) for step in waiting}
        check_sizes(nodes, {f"the step {name!r}": need for name, need in needs.items()})
        task = ray.remote(max_retries=RETRIES)(run_in_worker)
        place = Workplace.of(Path(args.output_dir))
        running: dict[Any, Step] = {}
        failed: dict[str, str] = {}
        while True:
            for step in [step for step in waiting if not set(step.inputs) & (set(headings) - done)]:
                waiting.remove(step)
                print(f"{headings[step.key]}: {step.shown}", flush=True)
                running[task.options(name=step.name, **ray_options(needs[step.name])).remote(step, place)] = step
            if not running:
                break
            (ended, *_), _ = ray.wait(list(running))
            step = running.pop(ended)
            reason = reason_of(ray, ended)
            if reason:
                failed[step.name] = reason
            else:
                done.add(step.key)
            said = "failed" if reason else "done"
            print(f"{headings[step.key]}: {said}, {len(done)} of {len(headings)}", flush=True)
    if failed:
        reasons = "\n".join(f"the step {name!r} {reason}" for name, reason in failed.items())
        left = f"; not begun: {', '.join(step.name for step in waiting)}" if waiting else ""
        raise ValueError(f"{reasons}\n{KEPT}{left}")


def reason_of(ray: Any, ended: Any) -> str:
    """Why a task has failed; "" where it has not."""
    try:
        return str(ray.get(ended))
    except ray.exceptions.RayTaskError as error:
        return f"could not be begun: {error.cause}"
    except ray.exceptions.RayError as error:
        return f"was lost with its worker too often ({str(error).strip().splitlines()[0]})"


def run_in_worker(step: Step, place: Workplace) -> str:
    """Run a step in a worker of Ray; "", or why it failed."""
    place.enter()
    if step.finished:  # by a worker that was lost before it could say so
        return ""
    wait_until_free(step.output_dir)
    lines: list[str] = []

    def start(words: list[str]) -> int:
        with subprocess.Popen(
            words, preexec_fn=end_with_parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            for line in whole_lines(process.stdout):
                print(f"[{step.name}] {line}", flush=True)
                lines.append(line)
        return process.returncode

    status = run_step(step, start)
    said = "\n".join(f"  {line}" for line in lines[-LAST_LINES:])
    return f"ended with status {status}:\n{said}" if status else ""


def whole_lines(stream: IO[bytes]) -> Iterator[str]:
    """The lines of a stream; of a progress bar, which is written again and again, what stands there in the end."""
    for line in stream:
        text = line.decode(errors="replace").rstrip().rpartition("\r")[2]
        if text:
            yield text


def resources_of(step: Step, resources: dict[str, dict[str, float]], has_gpus: bool) -> dict[str, float]:
    """What a step takes, in Ray's words: one CPU, and one GPU where the cluster has any, unless the recipe says more.

    The recipe's entry for the step's name goes before that for its first word, and that before "all".
    """
    asked: dict[str, float] = {"cpus": 1, "gpus": float(has_gpus)}
    for name in ("all", step.name.split()[0], step.name):
        asked |= resources.get(name, {})
    found = {"CPU": asked["cpus"], "GPU": asked["gpus"], "memory": asked.get("memory_gb", 0) * GIGABYTE}
    return {kind: amount for kind, amount in found.items() if amount}


def ray_options(need: dict[str, float]) -> dict[str, float]:
    """The same in the words of a task's options."""
    names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
    return {"num_cpus": 0} | {names[kind]: amount for kind, amount in need.items()}
