"""README and docs/: short lines, links that resolve, and every command block run at tiny size.

A page's commands run in the order in which they stand, in one folder, where tiny data sets and models lie under the
names that the pages use (`fill_reader`). What else is changed before a command runs stands in the tables below.
"""

import html
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from certificates import Authority, write_files
from chat_server import ChatServer
from helpers import REPOSITORY, clinsynth, run_python, run_warm
from judge_models import save_tiny_clip
from PIL import Image
from pyarrow import parquet
from text_models import WORDS, save_tiny_model
from text_posts import save_tiny_encoder
from tiny_stable_diffusion import tiny_stable_diffusion

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
GUIDES = sorted(DOCS.glob("*.md"), key=lambda page: (page.stem != "images", page.stem))  # others build on its runs
OTHERS = [REPOSITORY / "benchmarks" / name for name in ("README.md", "LOG.md")]
OTHERS += [REPOSITORY / "recipes" / "launch" / "README.md"]

SMALLER = {
    "--per_class": "2",
    "--balance_to": "8",
    "--textual_inversion_steps": "1",
    "--codes": "F32.1",
    "--k_shot": "1",
    "--rounds": "2",
}
"""Values of flags, where a command has them."""

TINY = {
    "train ddpm": "--width 8 --train_steps 2 --train_batch_size 4 --validation_steps 0",
    "train ddpm --dp_epsilon": "--dry_run true",
    "train gan": "--width 8 --train_steps 2 --train_batch_size 4 --validation_steps 0",
    "train image-classifier": "--epochs 2 --seeds 1",
    "train preference": "--train_steps 1 --train_batch_size 2 --prompts 1 --candidates 3 --pair_rule margin"
    " --num_inference_steps 2 --guard_steps 1 --guard_images 2 --calibration_pictures 5 --least_kappa -1"
    " --held_out_least_kappa -1",
    "train text-lora": "--train_steps 1 --batch_size 2",
    "train text-classifier": "--model small-bert --epochs 1 --seeds 1",
    "train text-to-image-lora": "--train_steps 1 --train_batch_size 2 --validation_steps 0",
    "generate images": "--num_inference_steps 2",
    "generate images --keep_if": "--most_draws 2",
    "generate text --k_shot": "--per_class 3",
    "generate text --codes": "--dry_run true",
    "evaluate images": "--bootstrap 2 --classifier_seeds 1 --classifier_epochs 1",
    "evaluate text": "--bootstrap 2 --encoder encoder",
    "judge": "--calibration_pictures 5",
    "audit membership": "--noises 1 --max_rows 16",
    "study": "--dry_run true",
}
"""Flags that are added to a command, to each that begins so and has the flag that stands behind. A study, which takes
hours, is only planned: tests/test_study*.py run whole ones. So are DP-SGD (tests/test_dp_training.py) and reports."""

NAMES = {
    ("--dataset", "phantom-fundus"): "phantom-fundus?size=32&train=40&validation=15&test=15",
    ("--real", "phantom-fundus"): "phantom-fundus?size=32&train=40&validation=15&test=15",
    ("--from_images", "phantom-fundus"): "phantom-fundus?size=32&train=40&validation=15&test=15",
    ("--strength", "0.6,0.75,0.9"): "0.6,0.9",
}
"""What a flag names, and something smaller in its place."""

PARSED = {
    "bash": "makes an environment; a fresh clone is tested by running it",
    "pip": "installs",
    "python": "serves until it is stopped; tests/test_space_app.py runs it",
    "accelerate": "wants GPUs, so the trainer alone is run, with --dry_run",
    "torchrun": "tests/test_train_ddpm.py runs two processes, so the trainer alone is run, with --dry_run",
}
"""First words of commands that do not run as they stand, and why; that they are right is checked as far as it goes."""


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's code blocks of that language; "" is a block without one."""
    return [content for name, content in FENCED.findall(page.read_text()) if name == language]


def commands(page: Path) -> list[list[str]]:
    """The words of each command of a page's bash blocks, its comments left out."""
    lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def tiny(words: list[str]) -> list[str]:
    """The command `clinsynth WORDS` at tiny size."""
    pairs = list(zip(["", *words], words, strict=False))
    words = [SMALLER.get(flag) or NAMES.get((flag, word), word) for flag, word in pairs]
    words = [word.replace("0-of-00003", "0-of-00001") for word in words]  # a tiny set has one shard
    line = " ".join(words)
    for begin, flags in TINY.items():
        name, _, flag = begin.partition(" --")
        if line.startswith(f"{name} ") and (not flag or f" --{flag}" in line):
            words = words + flags.split()
    return words


def fill_reader(folder: Path) -> None:
    """What a reader of the pages has at hand, at tiny size and under the same names."""
    for name in ("recipes", "metrics", "spaces", "trainers", "scripts", "benchmarks", "constraints.txt", "setup.cfg"):
        (folder / name).symlink_to(REPOSITORY / name)
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        labels = np.repeat(np.arange(5), count)
        arrays[f"{split}_labels"] = labels[:, None]
        arrays[f"{split}_images"] = noise(rng, labels, 28)
    np.savez(folder / "retinamnist.npz", **arrays)
    for number, image in enumerate(noise(rng, np.repeat(np.arange(7), 6), 32)):
        path = folder / "ham10000" / "akiec bcc bkl df mel nv vasc".split()[number // 6] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "mts_dialog").mkdir()
    for split in ("TrainingSet", "ValidationSet", "TestSet-1-MEDIQA-Chat-2023"):
        rows = [f"{number},GENHX,{WORDS[number]} {WORDS[-number]},talk" for number in range(8)]
        text = "\n".join(["ID,section_header,section_text,dialogue", *rows])
        (folder / "mts_dialog" / f"MTS-Dialog-{split}.csv").write_text(text)
    labels = ["non-depressed", "mild", "moderate", "severe"]
    posts = [f"{' '.join(rng.permutation(WORDS))},{labels[number % 4]}" for number in range(64)]
    splits = ["train"] * 40 + ["validation"] * 12 + ["test"] * 12
    rows = [f"{post},{split}" for post, split in zip(posts, splits, strict=True)]
    (folder / "posts.csv").write_text("\n".join(["text,label,split", *rows]))
    save_tiny_model(folder / "HuggingFaceTB" / "SmolLM2-135M-Instruct")
    save_tiny_clip(folder / "openai" / "clip-vit-base-patch32")
    save_tiny_encoder(folder / "encoder", [" ".join(WORDS)])
    tiny_stable_diffusion(folder / "stable-diffusion-v1-5" / "stable-diffusion-v1-5")
    write_files(folder, Authority())


def noise(rng: np.random.Generator, labels: np.ndarray, side: int) -> np.ndarray:
    """Colour noise around a level that tells the class, uint8 (n, side, side, 3)."""
    level = 40 + 30 * labels.reshape(-1, 1, 1, 1)
    return np.clip(level + rng.normal(0, 25, (len(labels), side, side, 3)), 0, 255).astype(np.uint8)


RUN_THERE = """
import os, runpy, sys
folder, kind, *words = sys.argv[1:]
os.chdir(folder)
sys.argv = words
if kind == "code":
    exec(compile(words[0], "a block of the page", "exec"), {"__name__": "__main__"})
elif kind == "file":
    runpy.run_path(words[0], run_name="__main__")
else:
    sys.argv = ["clinsynth", *words]
    runpy.run_module("clinsynth", run_name="__main__", alter_sys=True)
"""


class Reader:
    """Somebody who runs the commands of the pages in `folder`, and has a server of a language model."""

    def __init__(self, folder: Path, server: ChatServer) -> None:
        self.folder, self.server = folder, server

    def run(self, kind: str, *words: str) -> str:
        """Run `clinsynth WORDS` (kind "command"), a "file" of Python with its words, or "code"; what it printed."""
        return run_warm("-c", RUN_THERE, self.folder, kind, *words).stdout

    def follow(self, page: Path) -> None:
        """Run all commands of a page, or check those that are only parsed."""
        for first, *words in commands(page):
            if first == "clinsynth":
                words = [word.replace("http://127.0.0.1:8000/v1", self.server.url) for word in tiny(words)]
                self.run("command", *words)
                if "--output_dir" in words and "--dry_run" not in words:
                    assert (self.folder / words[words.index("--output_dir") + 1]).is_dir(), words
            elif first in ("accelerate", "torchrun"):
                script = next(i for i, word in enumerate(words) if word.endswith(".py"))
                self.run("file", *words[script:], "--dry_run")
            else:
                self.check(first, words)

    def check(self, first: str, words: list[str]) -> None:
        """Check a command that is only parsed: its files are there, it has its flags."""
        assert first in PARSED, f"no rule for {first} {words}"
        if first == "bash":
            subprocess.run(["bash", "-n", words[0]], cwd=self.folder, check=True)
        elif first == "pip":
            extras = re.findall(r"[\w-]+", words[-1])
            declared = (self.folder / "setup.cfg").read_text()
            assert all(f"\n{extra} =\n" in declared for extra in extras), words
            assert "-c" not in words or (self.folder / words[words.index("-c") + 1]).is_file()
        else:
            assert flags_of(words) <= flags_of(run_python(self.folder / words[0], "--help").stdout.split()), words


def flags_of(words: list[str]) -> set[str]:
    return {found[0] for word in words if (found := re.match(r"--[\w-]+", word.lstrip("[`(")))}


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader who has followed the front page, and so has runs/retina, its synthetic set and the evidence on it."""
    folder = tmp_path_factory.mktemp("reader")
    fill_reader(folder)
    with ChatServer().serve() as server:
        reader = Reader(folder, server)
        reader.follow(README)
        shard = next((folder / "runs" / "retina-synthetic" / "data").glob("*.parquet"))
        (folder / "image.png").write_bytes(parquet.read_table(shard)["image"][0].as_py()["bytes"])
        yield reader


def test_the_front_page_is_short() -> None:
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert not [line for line in lines if len(line) > 120]


def command_names() -> list[str]:
    """The commands in the table of the front page."""
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_the_front_page_names_every_command() -> None:
    listed = clinsynth("--help").stdout.partition("commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(command_names()) == len(listed)
    assert all(any(line.startswith(f"  {name}") for line in listed) for name in command_names())


def test_every_folder_of_a_tree_is_there() -> None:
    trees = [block for page in (README, *GUIDES) for block in blocks(page, "")]
    folders = [line.split()[0] for tree in trees for line in tree.splitlines() if re.match(r"\w+/ ", line)]
    assert len(folders) >= 20
    assert [folder for folder in folders if not (REPOSITORY / folder).is_dir()] == []


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", html.unescape(heading))
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


@pytest.mark.parametrize("page", [README, *GUIDES, *OTHERS], ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_resolve(page: Path) -> None:
    text = re.sub(r"`[^`]*`", "code", prose(page))
    places = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", text, re.MULTILINE))
    if places:  # [text][name], and [name] alone
        named = re.findall(r"\[[^]]+\]\[([^]]+)\]|(?<!\])\[([^]]+)\](?![(\[:])", text)
        assert {first or second for first, second in named} == set(places)
    links = [*places.values(), *re.findall(r"\]\(([^)\s]+)\)", text)]
    for link in (unquote(link) for link in links if not link.startswith(("http://", "https://"))):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_no_block_is_of_a_kind_that_is_not_run() -> None:
    kinds = {kind for page in (README, *GUIDES) for kind, _ in FENCED.findall(page.read_text())}
    assert kinds == {"", "bash", "python"}


def test_every_page_is_linked_from_the_front_page_or_a_guide() -> None:
    linked = " ".join(page.read_text() for page in (README, *GUIDES))
    assert [page.name for page in GUIDES if f"{page.name})" not in linked and f"{page.name}#" not in linked] == []


def test_the_tables_of_the_results_are_those_of_the_log() -> None:
    results = (DOCS / "results.md").read_text()
    log = (REPOSITORY / "benchmarks" / "LOG.md").read_text()
    assert "<!-- log: " in results
    assert runpy.run_path(str(DOCS / "results.py"))["fill"](results, log) == results, "run `python docs/results.py`"


def spans(page: Path) -> Iterator[str]:
    """The code within sentences of a page, on one line each."""
    return (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page)))


def test_commands_within_sentences_have_their_flags() -> None:
    found = [span for page in (README, *GUIDES) for span in spans(page)]
    found += [f"clinsynth {command}" for command in runpy.run_path(str(DOCS / "figure.py"))["COMMANDS"]]
    for name in command_names():
        uses = [span.removeprefix("clinsynth ").split() for span in found if span.startswith(f"clinsynth {name} ")]
        if name == "study":  # its further flags are a recipe's keys
            assert all((REPOSITORY / words[1]).is_file() for words in uses)
        elif uses:
            known = flags_of(clinsynth(*name.split(), "--help").stdout.split())
            assert set().union(*map(flags_of, uses)) <= known, name
    source = "".join(path.read_text() for path in (REPOSITORY / "benchmarks").glob("*.py"))
    for words in (span.split() for span in found if span.startswith("python -m benchmarks.")):
        assert (REPOSITORY / f"{words[2].replace('.', '/')}.py").is_file(), words
        assert all(re.search(rf"\b{flag[2:]}: |\"{flag}\"", source) for flag in flags_of(words)), words


def test_the_front_page_runs(reader: Reader) -> None:
    for file in ("model_index.json", "config.yaml"):
        assert (reader.folder / "runs" / "retina" / file).is_file()
    assert (reader.folder / "runs" / "retina-synthetic" / "generation.json").is_file()
    assert (reader.folder / "runs" / "retina-evidence" / "report.html").is_file()


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_commands_of_a_guide_run(reader: Reader, page: Path) -> None:
    reader.follow(page)
    for code in blocks(page, "python"):
        reader.run("code", code)


def test_the_figure_of_the_front_page_can_be_drawn(reader: Reader) -> None:
    words = "--synthetic runs/retina-synthetic --evidence runs/retina-evidence --output front.png".split()
    reader.run("file", str(DOCS / "figure.py"), *words)
    with Image.open(reader.folder / "front.png") as drawn, Image.open(DOCS / "figures" / "front.png") as shown:
        assert drawn.size == shown.size
