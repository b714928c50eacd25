"""Texts by a server of the OpenAI protocol: what goes over the wire, what fails and passes, what fails for good."""

import gzip
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from chat_server import ChatServer, as_json, chat, is_canary, obey
from helpers import run_warm
from test_generate_text import posts, read_rows, report
from text_models import save_small_task

from clinsynth.data.tasks import load_task
from clinsynth.models.endpoints import Endpoint
from clinsynth.models.writers import WriterArguments, is_loopback, key_variable
from clinsynth.pipelines.structured_medical_text.text_rows import derive_seed
from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.scripts.generate_text import main as generate


async def at_once(seconds: float) -> None:
    """In the place of a wait."""


HTML = (200, {"Content-Type": "text/html"}, b"<html><body>Log in first</body></html>")
LOST = (0, {}, b"")
SECRET = "sk-kept-quiet"


@pytest.fixture(autouse=True)
def quick_and_without_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio, "sleep", at_once)
    for name in ("OPENAI_API_KEY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_task(tmp_path_factory.mktemp("task") / "small.yaml")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer().serve() as running:
        yield running


def arguments(server: ChatServer, task: Path, output_dir: Path, **changes: Any) -> GenerateTextArguments:
    settings: dict[str, Any] = {"endpoint": server.url, "per_class": 8, "shard_size": 4, "timeout_s": 5.0}
    return GenerateTextArguments(model="m", task=str(task), output_dir=str(output_dir), **settings | changes)


def endpoint_of(server: ChatServer, task: Path, **changes: Any) -> Endpoint:
    args = WriterArguments(model="m", endpoint=server.url, timeout_s=5.0, **changes)
    return Endpoint(args, load_task(str(task)).schema, max_tokens=50)


def requests(count: int) -> list[tuple[list[dict[str, str]], int]]:
    return [([{"role": "user", "content": f"row {number}"}], 2**62 + number) for number in range(count)]


def test_rows_come_in_order_and_each_request_says_what_is_wanted(
    server: ChatServer, task: Path, tmp_path: Path
) -> None:
    generate(arguments(server, task, tmp_path / "out", temperature=0.5, top_p=0.9))
    rows = read_rows(tmp_path / "out")
    assert [row["label"] for row in rows] == [0] * 8 + [1] * 8 and [row["id"] for row in rows[:3]] == ["0", "1", "2"]
    assert {body["seed"] for body in server.rows} == {row["seed"] % 2**31 for row in rows}
    schema = load_task(str(task)).schema
    for body in server.rows:
        assert body["response_format"]["type"] == "json_schema"
        assert body["response_format"]["json_schema"]["schema"] == schema
        assert (body["model"], body["temperature"], body["top_p"]) == ("m", 0.5, 0.9)
        assert body["max_tokens"] > 30 and [message["role"] for message in body["messages"]] == ["system", "user"]
    made = report(tmp_path / "out")
    assert made["generator"]["served_model"] == "tiny-1" and made["generator"]["weights_sha256"] is None
    assert is_canary(server.bodies[0]) and len(server.bodies) == 17 and made["produced"] == made["requested"]


def test_no_more_requests_at_once_than_allowed(server: ChatServer, task: Path) -> None:
    server.delay_s = 0.05
    results = list(endpoint_of(server, task, concurrency=3).write(requests(12)))
    assert len(results) == 12 and server.most == 3
    assert [result.seed for result in results] == [seed for _, seed in requests(12)]


@pytest.mark.parametrize(
    "failure", [as_json(429, {"error": "slow down"}, **{"Retry-After": "0"}), as_json(503, []), LOST, HTML, chat(None)]
)
def test_what_fails_in_passing_changes_no_row(
    failure: Any, server: ChatServer, task: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = list(endpoint_of(server, task).write(requests(6)))
    tries: Counter[str] = Counter()

    def fail_twice(body: dict[str, Any]) -> Any:
        prompt = body["messages"][0]["content"]
        tries[prompt] += 1
        return failure if tries[prompt] <= 2 else obey(body)

    server.answer = fail_twice
    results = list(endpoint_of(server, task).write(requests(6)))
    if failure == chat(None):  # an answer, but one that is refused and asked for anew with another seed
        assert all(result.rejections == ["without content"] * 2 and result.attempts == 3 for result in results)
        last = {derive_seed(seed, 2) % 2**31 for _, seed in requests(6)}
        assert last <= {body["seed"] for body in server.bodies} and len(server.bodies) == 6 + 18
    else:
        assert results == plain and "that was try 2 of at most 5" in caplog.text and "row 1" not in caplog.text


def test_the_wait_doubles_varies_and_heeds_the_server(
    server: ChatServer, task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def noted(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(anyio, "sleep", noted)
    failures = iter([as_json(503, []), LOST, HTML, as_json(429, {}, **{"Retry-After": "7"})])
    server.answer = lambda body: next(failures, None) or obey(body)
    (result,) = endpoint_of(server, task).write(requests(1))
    assert result.data is not None and len(waits) == 4 and waits[3] == 7
    assert all(most / 2 < wait < most for wait, most in zip(waits, (0.5, 1, 2), strict=False))


def test_a_row_that_breaks_the_schema_is_counted_and_drawn_anew(
    server: ChatServer, task: Path, tmp_path: Path
) -> None:
    spoiled = {0: '{"text": "short"}', 1: "I am sorry, dear", 2: '{"text": "rain walks over the quiet', 3: None}
    finish = {2: "length", 3: "content_filter"}

    def spoil(body: dict[str, Any]) -> Any:
        kind = body["seed"] % 8
        return obey(body) if is_canary(body) or kind not in spoiled else chat(spoiled[kind], finish.get(kind, "stop"))

    server.answer = spoil
    generate(arguments(server, task, tmp_path / "out", max_attempts=2, per_class=20))
    made, rows = report(tmp_path / "out"), read_rows(tmp_path / "out")
    reasons = {"minLength at $.text", "not JSON", "not finished within the budget", "stopped by a filter"}
    assert set(made["rejected"]) == reasons and made["given_up"] > 0
    assert sum(made["produced"].values()) + made["given_up"] == 40 == len(rows) + made["given_up"]
    assert all(12 <= len(row["text"]) <= 30 for row in rows) and {row["attempts"] for row in rows} == {1, 2}
    assert sum(made["rejected"].values()) == len(server.rows) - len(rows)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (chat("Paris."), "does not hold to the JSON schema .*json_schema: its answer was not JSON; json_object: its"),
        (chat('{"answer": "Paris"}'), r"json_schema: its answer was enum at \$.answer"),
        (as_json(400, {"error": {"message": f"no such field {SECRET}"}}), r"status 400: .*no such field \*\*\*"),
        (as_json(401, {"error": "no"}), "failed .status 401.*put a key .* environment variable OPENAI_API_KEY"),
        (as_json(404, {"error": "no"}), "failed .status 404.*check the address, which mostly ends in /v1"),
        ((307, {"Location": "http://elsewhere.example/v1"}, b""), "failed .status 307.*check the address"),
        (as_json(500, {"detail": "no"}), "json_schema: status 500: .* json_object: status 500: "),
        (as_json(503, {"detail": "row text"}), "failed after 5 tries .status 503.; finished shards are kept"),
        (HTML, "failed after 5 tries .what came is no chat completion but another kind of page"),
        (as_json(200, {}), "what came is no chat completion"),
        (as_json(200, ["?"]), "what came is no chat completion"),
        (LOST, "failed after 5 tries .Server disconnected"),
    ],
)
def test_a_server_that_will_not_do_is_named_before_the_first_row(
    answer: Any, message: str, server: ChatServer, task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.answer = lambda body: answer
    with pytest.raises(ValueError, match=message) as caught:
        generate(arguments(server, task, tmp_path / "out"))
    assert not server.rows and SECRET not in str(caught.value)
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_a_server_that_hangs_is_given_up(server: ChatServer, task: Path, tmp_path: Path) -> None:
    release = threading.Event()
    server.answer = lambda body: obey(body) if release.wait(20) else LOST
    with pytest.raises(ValueError, match=r"failed after 2 tries .no answer in time.*raise --timeout_s"):
        generate(arguments(server, task, tmp_path / "out", timeout_s=0.2))
    release.set()


def test_an_answer_without_end_is_left_where_it_is_too_large(server: ChatServer, task: Path, tmp_path: Path) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 3000:  # 3 GB
            sent.append(1 << 20)
            yield bytes(1 << 20)

    server.answer = lambda body: (200, {"Content-Type": "application/json"}, endless())
    with pytest.raises(ValueError, match=r"failed .an answer of more than 16 MB.*finished shards are kept"):
        generate(arguments(server, task, tmp_path / "out"))
    assert len(server.bodies) == 1 and 16 <= len(sent) < 40


def test_an_answer_that_drips_is_given_up_when_its_time_is_over(
    server: ChatServer, task: Path, tmp_path: Path
) -> None:
    sent: list[bytes] = []

    def drip() -> Iterator[bytes]:
        for part in [b" "] * 100:  # 10 seconds, and never a tenth of one without a byte
            time.sleep(0.1)
            sent.append(part)
            yield part

    server.answer = lambda body: (200, {"Content-Type": "application/json"}, drip())
    with pytest.raises(ValueError, match=r"failed after 2 tries .no answer in time.*raise --timeout_s"):
        generate(arguments(server, task, tmp_path / "out", timeout_s=0.5))
    assert len(server.bodies) == 2 and 4 <= len(sent) < 30


def test_a_compressed_answer_which_was_not_asked_for_is_not_unfolded(
    server: ChatServer, task: Path, tmp_path: Path
) -> None:
    def zipped(body: dict[str, Any]) -> Any:
        status, headers, content = obey(body)
        return status, {**headers, "Content-Encoding": "gzip"}, gzip.compress(content)

    server.answer = zipped
    with pytest.raises(ValueError, match=r"failed .a compressed answer, which was not asked for.; finished shards"):
        generate(arguments(server, task, tmp_path / "out"))
    assert {headers["accept-encoding"] for headers in server.headers} == {"identity"}


@pytest.mark.parametrize("refusal", [422, 500])
def test_the_form_of_other_servers_is_found(refusal: int, server: ChatServer, task: Path, tmp_path: Path) -> None:
    def obey_json_object(body: dict[str, Any]) -> Any:
        form = body["response_format"]
        if form["type"] != "json_object":
            return as_json(refusal, {"detail": "response_format.type must be text or json_object"})
        return obey({**body, "response_format": {"type": "json_schema", "json_schema": {"schema": form["schema"]}}})

    server.answer = obey_json_object
    generate(arguments(server, task, tmp_path / "out"))
    assert len(read_rows(tmp_path / "out")) == 16
    assert {body["response_format"]["type"] for body in server.rows} == {"json_object"}


def test_a_server_that_dies_half_way_costs_no_finished_text(task: Path, tmp_path: Path) -> None:
    with ChatServer().serve() as healthy:
        generate(arguments(healthy, task, tmp_path / "whole"))
    dying = ChatServer()
    dying.answer = lambda body: obey(body) if len(dying.bodies) < 12 else LOST
    with dying.serve():
        stopped = arguments(dying, task, tmp_path / "stopped", concurrency=2)
        with pytest.raises(ValueError, match=r"failed after 5 tries.*shards are kept: .*start the same command"):
            generate(stopped)
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "data").glob("train-*")}
    assert len(finished) == 2 and not report(tmp_path / "stopped")["complete"]
    with pytest.raises(ValueError, match=r"failed after 5 tries .*Connection refused.*shards are kept"):
        generate(stopped)
    drawn = sum(len(path.read_text().splitlines()) for path in (tmp_path / "stopped").glob("drawn-*"))
    with ChatServer().serve() as anew:  # on another port, which is the same run
        generate(replace(stopped, endpoint=anew.url))
    assert all((tmp_path / "stopped" / "data" / name).stat().st_mtime_ns == at for name, at in finished.items())
    assert 0 < drawn < 8 and len(anew.rows) == 8 - drawn
    assert read_rows(tmp_path / "stopped") == read_rows(tmp_path / "whole")


def test_another_model_behind_the_same_name_does_not_add_to_a_data_set(
    server: ChatServer, task: Path, tmp_path: Path
) -> None:
    generate(arguments(server, task, tmp_path / "out"))

    def renamed(body: dict[str, Any]) -> Any:
        status, headers, content = obey(body)
        return status, headers, content.replace(b"tiny-1", b"tiny-2")

    server.answer = renamed
    with pytest.raises(ValueError, match="was begun with served_model 'tiny-1', not 'tiny-2'"):
        generate(arguments(server, task, tmp_path / "out"))


def test_keys_come_from_the_environment_and_go_nowhere_else(
    server: ChatServer,
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.INFO, "clinsynth")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_hub")
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):  # which openai sends by itself
        monkeypatch.setenv(name, "of-another-server")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "x-note: of-another-server")
    generate(arguments(server, task, tmp_path / "without"))
    assert not any("authorization" in headers for headers in server.headers)
    assert "OPENAI_API_KEY is not set: no key" in caplog.text
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    generate(arguments(server, task, tmp_path / "with"))
    assert server.headers[-1]["authorization"] == f"Bearer {SECRET}"
    assert "the key in OPENAI_API_KEY goes to 127.0.0.1" in caplog.text
    written = [path.read_text() for path in (tmp_path / "with").iterdir() if path.is_file()]
    said = "".join([caplog.text, *capsys.readouterr(), *written])
    assert SECRET not in said and "hf_of_the_hub" not in said
    assert set(server.headers[-1]) == {
        *("host", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "authorization")
    }


def test_the_token_goes_to_the_hub_alone() -> None:
    """Whoever runs a Space or an Inference Endpoint reads what is sent there."""
    assert {key_variable(f"https://{name}huggingface.co/v1") for name in ("", "router.")} == {"HF_TOKEN"}
    others = "https://me-space.hf.space https://a.us-east-1.aws.endpoints.huggingface.cloud http://huggingface.co "
    others += "https://nothuggingface.co https://huggingface.co.example.org https://me.huggingface.co http://127.0.0.1"
    assert {key_variable(f"{host}/v1") for host in others.split()} == {"OPENAI_API_KEY"}


def test_real_texts_leave_this_machine_only_on_the_users_word(server: ChatServer, tmp_path: Path) -> None:
    path, far = posts(tmp_path, 12), "http://models.example.org:8000/v1"
    flags: dict[str, Any] = {"dataset": str(path), "k_shot": 2, "per_class": 2}
    severity = Path("severity-posts")
    with pytest.raises(ValueError, match=r"sends real texts .* to models.example.org.*--send_real_texts true"):
        arguments(server, severity, tmp_path / "far", endpoint=far, **flags)
    arguments(server, severity, tmp_path / "far", endpoint=far, send_real_texts=True, **flags)
    arguments(server, severity, tmp_path / "far", endpoint=far, **flags | {"k_shot": 0})
    generate(arguments(server, severity, tmp_path / "near", **flags))
    real = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()[1:]]
    assert not any(text.strip('"') in json.dumps(server.bodies[0]) for text in real)
    assert all(any(text.strip('"') in json.dumps(body) for text in real) for body in server.rows)
    assert [is_loopback(f"http://{host}:1/v1") for host in ("localhost", "127.0.0.9", "[::1]")] == [True] * 3
    assert not any(is_loopback(f"http://{host}/v1") for host in ("0.0.0.0", "10.0.0.1", "localhost.example.org"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"endpoint": "127.0.0.1:8000"}, "--endpoint 127.0.0.1:8000 is no http or https address; give one like"),
        ({"endpoint": "ftp://a/v1"}, "is no http or https address"),
        ({"endpoint": "http://"}, "is no http or https address"),
        ({"endpoint": "http://a:99999/v1"}, "is no address .*Port out of range"),
        ({"endpoint": "http://me:pass@a/v1"}, "without user, password"),
        ({"endpoint": "http://a/v1?key=s"}, "environment variable OPENAI_API_KEY"),
        ({"concurrency": 0}, "--concurrency must be at least 1, got 0"),
        ({"timeout_s": 0.0}, "--timeout_s must be above 0 and finite, got 0.0"),
        ({"dtype": "bfloat16"}, "--dtype bfloat16 is for a model here.*leave --dtype or --endpoint out"),
        ({"backend": "vllm"}, "--backend vllm is for a model here"),
    ],
)
def test_bad_flags_are_named(changes: dict[str, Any], message: str, task: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        arguments(ChatServer(port=1), task, tmp_path, **changes)
    assert "pass@" not in str(caught.value) and "key=s" not in str(caught.value)


def test_the_command_ends_with_a_message_where_no_server_is(task: Path, tmp_path: Path) -> None:
    flags = {"endpoint": "http://127.0.0.1:9/v1", "model": "m", "task": task, "per_class": 1, "output_dir": tmp_path}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    ended = run_warm("-m", "clinsynth", "generate", "text", *words, check=False, HTTP_PROXY="http://127.0.0.1:10")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "failed after 5 tries ([Errno 111] Connection refused)" in ended.stderr
