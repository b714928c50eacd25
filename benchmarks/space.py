"""How soon the Space is ready and draws, and whether its memory stays flat with ten visitors at once.

    python -m benchmarks.space --output_dir runs/benchmark-space
    python -m benchmarks.space --soak 30 --clients 20 --output_dir runs/benchmark-soak

Starts `python spaces/studio/app.py` with a model of 32 x 32 grey images (hardly trained: time is what counts), in a
process of its own. Ready: the page's configuration is answered. First image: one image in 25 steps, asked as soon
as it is ready, until it is shown. Memory: resident, of the server, after the first and after the last of several
rounds in which ten clients, each with a connection of its own, ask at the same time. Install with compiled modules, as
pip does unless told otherwise: most of it is imports.

The second command soaks it for so many minutes: every client draws, reviews, compares and uploads hostile files
(`benchmarks.hostile`), whatever comes next by chance. A request is lost where it is answered by nothing or by
something else than a result or a sentence of the Space. Memory is compared between the third tenth of the time, when
all has been asked for once, and the last.
"""

import os
import random
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.hostile import hostile_files
from benchmarks.timing import BenchmarkArguments, write_results
from clinsynth.arguments import run
from clinsynth.run_folder import create_run_folder

APP = Path(__file__).parent.parent / "spaces" / "studio" / "app.py"
GOALS = {"ready": 15.0, "first image": 2.0, "memory growth": 0.05}
ROWS = {
    "ready": "Space: seconds from start to ready",
    "first image": "Space: seconds of the first image, 32 x 32, 25 steps",
    "memory growth": "Space: growth of memory over the rounds of ten clients, as a share",
}
SIZE, STEPS = 32, 25


@dataclass(kw_only=True)
class SpaceArguments(BenchmarkArguments):
    """Measure the Space's start, its first image, and its memory with several clients."""

    may_be_zero = frozenset({"soak"})

    repeats: int = 3
    """Starts; the table has their median and range."""
    clients: int = 10
    """Clients that ask at once."""
    rounds: int = 5
    """Times that all of them ask, at the last start; memory grows from the first to the last."""
    soak: float = 0.0
    """minutes of requests of all kinds by all clients, in the place of all else"""


def main(args: SpaceArguments) -> None:
    """Start the Space several times, ask it, print and write the table."""
    output_dir = create_run_folder(args.output_dir)
    model = make_model(output_dir / "grey-32")
    if args.soak:
        soak(args, model, output_dir)
        return
    found: dict[str, list[float]] = {"ready": [], "first image": [], "memory growth": []}
    memory: list[float] = []
    for repeat in range(args.repeats):
        server, url, seconds = start(model, output_dir)
        try:
            found["ready"].append(seconds)
            found["first image"].append(draw(url, 0))
            if repeat == args.repeats - 1:
                memory = ask_in_rounds(url, server.pid, args.clients, args.rounds)
        finally:
            server.terminate()
            server.wait(timeout=60)
    found["memory growth"].append(memory[-1] / memory[0] - 1)
    text = f"{table(found)}\nMemory after each round, MB: {', '.join(f'{size:.0f}' for size in memory)}"
    write_results(args, "space", text=text, found=found, memory_mb=memory)


def soak(args: SpaceArguments, model: Path, output_dir: Path) -> None:
    """Let all clients ask for all kinds of things until the time is over, and write the table."""
    import psutil

    files = write_hostile(output_dir / "hostile")
    server, url, _ = start(model, output_dir)
    begun = time.monotonic()
    end = begun + 60 * args.soak
    told: list[tuple[str, str]] = []
    memory: list[tuple[float, float]] = []
    try:
        with ThreadPoolExecutor(args.clients + 1) as pool:
            visits = [pool.submit(visit, url, number, end, files, told) for number in range(args.clients)]
            while time.monotonic() < end and server.poll() is None:
                memory.append((time.monotonic() - begun, psutil.Process(server.pid).memory_info().rss / 1e6))
                time.sleep(1)
            for one in visits:
                one.result()
        last = draw(url, 1_000_000)
    finally:
        server.terminate()
        server.wait(timeout=60)
    early, late = (
        statistics.median(size for at, size in memory if low <= at / memory[-1][0] <= high)
        for low, high in ((0.2, 0.3), (0.9, 1.0))
    )
    lines = ["| asked for | done | refused with a sentence | queue full | lost |", "|---|---|---|---|---|"]
    for kind in sorted({kind for kind, _ in told}):
        numbers = [sum(one == (kind, end) for one in told) for end in ENDS]
        lines.append(f"| {kind} | {' | '.join(map(str, numbers))} |")
    lines += ["", f"Memory: {early:.0f} MB early, {late:.0f} MB at the end, {late / early - 1:+.1%}."]
    lines.append(
        f"The queue is alive at the end: an image in {last:.1f} s. {args.clients} clients, {args.soak:g} minutes."
    )
    write_results(args, "soak", text="\n".join(lines), told=told, memory_mb=memory, last_seconds=last)


ENDS = ("done", "refused", "full", "lost")


def write_hostile(folder: Path) -> list[Path]:
    """The hostile files that a visitor can upload: below the Space's bound of 20 MB."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, (_, ending, content) in enumerate(hostile_files()):
        if ending in ("zip", "parquet", "yaml") and len(content) < 20 << 20:
            paths.append(folder / f"{number}.{ending}")
            paths[-1].write_bytes(content)
    return paths


def visit(url: str, number: int, end: float, files: list[Path], told: list[tuple[str, str]]) -> None:
    """One client until the time is over; what came of each request, by its kind, goes to `told`."""
    from gradio_client import handle_file

    chance, client = random.Random(number), connect(url)
    while time.monotonic() < end:
        kind = chance.choices(["an image", "a review", "a hostile file", "evidence"], [8, 4, 4, 1])[0]
        try:
            if kind == "an image":
                draw(url, chance.randrange(10**6), client)
            elif kind == "a review":
                review(client, f"rater {number}", chance.randrange(10**6))
            elif kind == "evidence":
                client.predict(seed=chance.randrange(10**6), api_name="/evidence")
            else:
                path = chance.choice(files)
                if path.suffix == ".yaml":
                    client.predict("Ann", checklist_file=handle_file(path), api_name="/review_start")
                else:
                    client.predict(synthetic_file=handle_file(path), api_name="/evidence")
            told.append((kind, "done"))
        except Exception as error:  # whatever comes instead of an answer is what this counts
            told.append((kind, told_by(error)))


def told_by(error: Exception) -> str:
    """Whether an error is the Space's own sentence, a full queue, or a request that was lost."""
    from gradio_client.exceptions import AppError

    if not isinstance(error, AppError):
        return "lost"
    return "full" if "queue" in str(error).lower() else "refused" if len(str(error)) < 1000 else "lost"


def review(client: Any, rater: str, seed: int) -> None:
    """Start a review of two samples, and score the first."""
    plan = client.predict(rater, number=2, seed=seed, api_name="/review_start")
    first = plan["samples"][0]
    scores = {item["id"]: 1 for item in plan["items"][first["condition"]]}
    client.predict(plan["session"], rater, first["id"], scores, True, plan["key"], api_name="/review_score")


def make_model(folder: Path) -> Path:
    """A checkpoint of the architecture that `clinsynth train ddpm` trains at this size; kept where it is there."""
    if (folder / "model_index.json").exists():
        return folder
    command = [sys.executable, "-m", "clinsynth", "train", "ddpm", "--dataset", "phantom-fundus"]
    settings = f"--resolution {SIZE} --channels 1 --train_steps 2 --train_batch_size 8 --validation_steps 0"
    subprocess.run([*command, *settings.split(), "--output_dir", str(folder)], check=True)
    return folder


def start(model: Path, folder: Path) -> tuple["subprocess.Popen[bytes]", str, float]:
    """The Space's process, its address, and the seconds until it was ready.

    Raises:
        ValueError: it ended, or was not ready in five minutes.
    """
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, begun = f"http://127.0.0.1:{port}", time.monotonic()
    environment = os.environ | {"GRADIO_TEMP_DIR": str((folder / "gradio").resolve())}
    environment |= {"STUDIO_SCORES": str((folder / "scores").resolve())}
    command = [sys.executable, str(APP), "--models", str(model.resolve()), "--port", str(port)]
    with open(folder / "space.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    while time.monotonic() < begun + 300 and server.poll() is None:
        try:
            if httpx.get(f"{url}/config", timeout=60).status_code == 200:
                return server, url, time.monotonic() - begun
        except httpx.TransportError:
            time.sleep(0.02)
    server.kill()
    raise ValueError(f"{' '.join(command[:2])} was not ready in five minutes, or ended with {server.poll()}")


def connect(url: str) -> Any:
    """A client of the Space, which waits for two minutes where many connect at once (httpx waits for 5 s)."""
    from gradio_client import Client

    return Client(url, verbose=False, download_files=False, httpx_kwargs={"timeout": 120})


def draw(url: str, seed: int, client: Any = None) -> float:
    """Seconds from the request of one image until it is shown; those of connecting are left out.

    After that the Space looks for the training images nearest to it, which is waited for and not counted.
    """
    client = client or connect(url)
    begun = time.monotonic()
    answers = client.submit(count=1, steps=STEPS, seed=seed, api_name="/images")
    pictures, *_ = next(iter(answers))
    seconds = time.monotonic() - begun
    if f"seed {seed}" not in pictures[0]["caption"]:
        raise ValueError(f"the Space answered {pictures[0]['caption']!r} to seed {seed}: this measured nothing")
    answers.result()
    return seconds


def ask_in_rounds(url: str, pid: int, clients: int, rounds: int) -> list[float]:
    """Resident memory of the server in MB after each round, in which every client gets its own image."""
    import psutil

    server, sizes = psutil.Process(pid), []
    visitors = [connect(url) for _ in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        for turn in range(rounds):
            seeds = [turn * clients + number for number in range(clients)]
            list(pool.map(draw, [url] * clients, seeds, visitors))
            sizes.append(server.memory_info().rss / 1e6)
    return sizes


def table(found: dict[str, list[float]]) -> str:
    """Median and range of each number beside its goal."""
    lines = ["| what | median | range | goal | met | n |", "|---|---|---|---|---|---|"]
    for name, values in found.items():
        middle, goal = statistics.median(values), GOALS[name]
        spread = f"{min(values):.3f} to {max(values):.3f}"
        met = "yes" if middle <= goal else "no"
        lines.append(f"| {ROWS[name]} | {middle:.3f} | {spread} | <= {goal:g} | {met} | {len(values)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(SpaceArguments, main)
