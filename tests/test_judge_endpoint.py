"""The judge vlm at a server of the OpenAI protocol: what is sent and counted, what ends the run, what may leave."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from chat_server import Answer, ChatServer, as_json, chat, is_canary, obey
from helpers import write_npz
from judge_models import arguments
from PIL import Image

from clinsynth.data.npz import read_npz
from clinsynth.data.sources import load_folder
from clinsynth.judges.calibration import calibrate
from clinsynth.judges.checklists import sample_id
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import passes, share_of_items
from clinsynth.judges.scores import read_answers
from clinsynth.judges.vlm import check_may_leave, is_synthetic
from clinsynth.scripts.judge import main

FAR = "http://models.example.org:8000/v1"
LOST = (0, {}, b"")


@pytest.fixture(autouse=True)
def quick_and_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(seconds: float) -> None:
        """In the place of a wait."""

    monkeypatch.setattr(anyio, "sleep", at_once)
    for name in ("OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(answer=look).serve() as running:
        yield running


def picture_of(body: dict[str, Any]) -> Image.Image:
    """The picture that a request carries."""
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    kind, _, data = url.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def look(body: dict[str, Any]) -> Answer:
    """A server whose model finds every picture red, and a disc where the first pixel is bright."""
    if is_canary(body):
        return obey(body)
    bright = picture_of(body).getpixel((0, 0))[0] > 127
    return chat(json.dumps({"disc": {"reason": "seen", "met": int(bright)}, "red": {"reason": "is", "met": 1}}))


def judge(server: ChatServer, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"judge": "vlm", "judge_model": "m", "judge_endpoint": server.url, "timeout_s": 5.0}
    main(arguments(folder, **{**settings, **changes}))
    judged: dict[str, Any] = json.loads((folder / "judged" / "judged.json").read_text())
    return judged


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "judged" / "data").glob("train-*.parquet"))


def test_each_picture_is_sent_once_and_scored_by_its_answer(server: ChatServer, tmp_path: Path) -> None:
    judged = judge(server, tmp_path)
    made = load_folder(tmp_path / "synthetic")["train"]
    sent = {sample_id(picture_of(body)) for body in server.rows}
    assert sent == {sample_id(image) for image in made["image"]} and len(server.bodies) == 21
    for body in server.rows:
        schema = body["response_format"]["json_schema"]["schema"]
        assert schema["properties"]["disc"]["properties"]["met"]["enum"] == [0, 1]
        assert (body["model"], body["temperature"]) == ("m", 0.0) and body["max_tokens"] > 200
        assert "- red: Is it red?" in body["messages"][0]["content"][1]["text"]
    bright = [int(image.getpixel((0, 0))[0] > 127) for image in made["image"]]
    answers = read_answers(shards(tmp_path))
    assert [answer["scores"]["disc"] for answer in answers] == bright and 0 < sum(bright) < 20
    assert judged["overall"]["items"]["red"]["value"] == 1 and judged["served_model"] == "tiny-1"
    assert (judged["judge"], judged["weights_sha256"], judged["send_real"]) == ("vlm", None, None)


def spoiled(count: int) -> Any:
    """A server that breaks the schema in the first `count` answers, each time in another way."""
    ways = [
        chat("I see a disc, and it is red."),
        chat('{"disc": {"reason": "a", "met": 2}, "red": {"reason": "a", "met": 1}}'),
        chat('{"disc": {"reason": "cut', "length"),
        chat(None),
    ]
    lock, seen = threading.Lock(), iter(range(10_000))

    def answer(body: dict[str, Any]) -> Answer:
        if is_canary(body):
            return look(body)
        with lock:
            number = next(seen)
        return ways[number % 4] if number < count else look(body)

    return answer


def test_answers_that_break_the_schema_are_counted_and_get_no_score(server: ChatServer, tmp_path: Path) -> None:
    server.answer = spoiled(4)
    judged = judge(server, tmp_path, concurrency=1)
    assert judged["unscored"]["n"] == 4 and judged["unscored"]["first_rows"] == [0, 1, 2, 3]
    assert judged["unscored"]["reasons"] == dict.fromkeys(
        ["not JSON", "enum at $.disc.met", "not finished within the budget", "without content"], 1
    )
    assert judged["overall"]["passed"]["n"] == 16 and len(server.rows) == 20
    assert "grade 0" not in judged["conditions"] and judged["n"] == 20
    failed = read_answers(shards(tmp_path))[0]
    assert failed["scores"] == {} and not passes(failed, frozenset())
    assert share_of_items(failed, frozenset()) != share_of_items(failed, frozenset())
    judge(server, tmp_path)
    assert len(server.rows) == 20  # nothing is asked again


def prose_about(item: str | None) -> Any:
    """A server that says yes to everything, but writes prose where it is asked about `item`; None: always."""

    def answer(body: dict[str, Any]) -> Answer:
        if is_canary(body):
            return obey(body)
        asked = body["response_format"]["json_schema"]["schema"]["properties"]
        yes = json.dumps({key: {"reason": "seen", "met": 1} for key in asked})
        return chat("A fine eye." if item is None or item in asked else yes)

    return answer


def test_what_a_judge_never_scores_is_not_trusted(server: ChatServer) -> None:
    judge = load_judge("vlm", "m", "phantom-fundus", endpoint=server.url, timeout_s=5.0)
    settings: dict[str, Any] = {"per_grade": 2, "least_kappa": -1.0, "seed": 0}
    server.answer = prose_about(None)
    with pytest.raises(ValueError, match=r"the judge vlm gave scores to none of 20 phantoms .* \(not JSON\)"):
        calibrate(judge, 32, 3, **settings)
    server.answer = prose_about("new_vessels_1_to_3")
    found = calibrate(judge, 32, 3, **settings)
    assert 2 <= found["unscored"] < 20 and "new_vessels_1_to_3" in found["refused"]
    assert "new_vessels_1_to_3" not in found["items"] and "one_disc" not in found["refused"]


def test_a_judge_that_writes_prose_alone_is_named(server: ChatServer, tmp_path: Path) -> None:
    server.answer = lambda body: obey(body) if is_canary(body) else chat("A fine eye.")
    with pytest.raises(ValueError, match=r"gave scores to none of 20 images \(20 not JSON\); see the column failure"):
        judge(server, tmp_path)
    assert len(shards(tmp_path)) == 4


def test_a_server_that_dies_costs_no_finished_shard(tmp_path: Path) -> None:
    dying = ChatServer()
    dying.answer = lambda body: look(body) if len(dying.bodies) < 14 else LOST
    with dying.serve(), pytest.raises(ValueError, match=r"--judge_endpoint .* failed after 5 tries .*shards are kept"):
        judge(dying, tmp_path, concurrency=2)
    finished = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert len(finished) == 2 and not (tmp_path / "judged" / "judged.json").exists()
    with ChatServer(answer=look).serve() as anew:
        judged = judge(anew, tmp_path)
    assert len(anew.rows) == 10 and judged["overall"]["passed"]["n"] == 20
    assert all(path.stat().st_mtime_ns == at for path, at in finished.items())


def test_a_server_that_hangs_after_the_first_request(server: ChatServer, tmp_path: Path) -> None:
    release = threading.Event()
    server.answer = lambda body: look(body) if is_canary(body) or release.wait(20) else LOST
    with pytest.raises(ValueError, match=r"--judge_endpoint .*after 2 tries .no answer in time.*raise --timeout_s"):
        judge(server, tmp_path, timeout_s=0.3)
    release.set()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (as_json(400, {"error": "no pictures"}), r"refused a request \(status 400\).*its model takes no images"),
        (as_json(401, {"error": "no"}), "status 401.*put a key .* environment variable OPENAI_API_KEY"),
        (as_json(503, []), "--judge_endpoint .* failed after 5 tries .status 503"),
    ],
)
def test_a_server_that_fails_on_pictures(answer: Answer, message: str, server: ChatServer, tmp_path: Path) -> None:
    server.answer = lambda body: obey(body) if is_canary(body) else answer
    with pytest.raises(ValueError, match=message):
        judge(server, tmp_path)


def test_a_server_without_schemas_or_of_another_model_is_refused(server: ChatServer, tmp_path: Path) -> None:
    judge(server, tmp_path)

    def renamed(body: dict[str, Any]) -> Answer:
        status, headers, content = look(body)
        return status, headers, content.replace(b"tiny-1", b"tiny-2")

    server.answer = renamed
    with pytest.raises(ValueError, match="was begun with served_model 'tiny-1', not 'tiny-2'"):
        judge(server, tmp_path)
    server.answer = lambda body: chat("Paris.")
    with pytest.raises(ValueError, match=r"--judge_endpoint .* does not hold to the JSON schema .* and --judge_model"):
        judge(server, tmp_path)


def test_real_pictures_leave_this_machine_only_on_the_users_word(server: ChatServer, tmp_path: Path) -> None:
    real = write_npz(tmp_path / "real.npz", classes=5)
    names = [f"grade {number}" for number in range(5)]
    rows = read_npz(real)["train"]
    with pytest.raises(ValueError, match=r"would send the images of .*real.npz to models.example.org.*--send_real"):
        check_may_leave(FAR, str(real), rows, None)
    check_may_leave(FAR, str(real), rows, "the ethics board allowed it")
    check_may_leave(server.url, str(real), rows, None)
    assert not is_synthetic(str(real), rows) and is_synthetic("phantom-fundus?size=32", rows)
    said = [rows.add_column("synthetic", [*[True] * (len(rows) - 1), last]) for last in (True, False)]
    assert [is_synthetic("owner/name", one) for one in said] == [True, False]
    args = arguments(tmp_path, judge="vlm", judge_model="m", judge_endpoint=FAR)
    made = load_folder(Path(args.images))["train"]
    assert is_synthetic(args.images, made)
    assert not is_synthetic(args.images, made.add_column("source_id", ["patient 1"] * len(made)))
    unmarked = made.remove_columns("synthetic")
    assert is_synthetic(args.images, unmarked) and not is_synthetic(args.images, unmarked.remove_columns("seed"))
    folder = tmp_path / "pictures"
    for name, image in zip(names, made["image"], strict=False):
        (folder / name).mkdir(parents=True)
        image.save(folder / name / "a.png")
    with pytest.raises(ValueError, match="nothing says that they are synthetic"):
        main(replace(args, images=str(folder), output_dir=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judge": "measure"}, "--judge_endpoint is for --judge vlm, not measure"),
        ({"send_real": "yes"}, "--send_real must say in words who allowed it and why, got 'yes'"),
        ({"concurrency": 0}, "--concurrency must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "--timeout_s must be above 0 and finite, got 0.0"),
        ({"judge_endpoint": "127.0.0.1:1"}, "--judge_endpoint 127.0.0.1:1 is no http or https address"),
        ({"judge_endpoint": "http://a/v1?key=s"}, "--judge_endpoint must be an address without user, password"),
    ],
)
def test_bad_flags_are_named(changes: dict[str, Any], message: str, server: ChatServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        judge(server, tmp_path, **changes)
