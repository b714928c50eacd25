"""datasets, diffusers, transformers and gradio_client, in processes of their own, load what was pushed."""

import socket
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

from loopback_hub.client import run_client
from loopback_hub.hub import LoopbackHub


def test_datasets_are_pushed_loaded_and_streamed(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    code = """
    import numpy as np
    from datasets import ClassLabel, Dataset, Features, Image, load_dataset
    from PIL import Image as Picture
    features = Features({"image": Image(), "label": ClassLabel(names=["healthy", "severe"])})
    pictures = [Picture.fromarray(np.full((8, 8, 3), i, np.uint8)) for i in range(6)]
    made = Dataset.from_dict({"image": pictures, "label": [0, 1] * 3}, features=features)
    made.push_to_hub("tester/set", private=True, num_shards=2)
    loaded = load_dataset("tester/set", split="train")
    found["loaded"] = [np.asarray(loaded[i]["image"])[0, 0, 0].item() for i in range(6)]
    found["names"] = loaded.features["label"].names
    streamed = load_dataset("tester/set", split="train", streaming=True)
    found["streamed"] = [np.asarray(row["image"])[0, 0, 0].item() for row in streamed]
    """
    found = run_client(loopback_hub, code, tmp_path)
    assert found == {"loaded": list(range(6)), "names": ["healthy", "severe"], "streamed": list(range(6))}
    repo = loopback_hub.repo("dataset", "tester/set")
    shards = [path for path in repo.files() if path.endswith(".parquet")]
    assert len(shards) == 2 and all(repo.entry(path).sha256 for path in shards) and repo.settings["private"]
    assert {206} == {call.status for call in loopback_hub.calls("GET /storage/*")[2:]}  # streaming reads ranges


def test_checkpoints_load_with_their_own_code(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    code = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import torch
    from helpers import tiny_pipeline
    tiny_pipeline("context_unet").push_to_hub("tester/ddpm")
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained("tester/ddpm", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    found["module"] = type(pipe).__module__.split(".")[0]
    images = pipe(["mild"], num_inference_steps=1, generator=torch.Generator().manual_seed(0)).images
    found["size"] = images[0].size
    from transformers import AutoModel, BertConfig, BertModel
    config = BertConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    model = BertModel(config)
    model.push_to_hub("tester/bert", private=True)
    loaded = AutoModel.from_pretrained("tester/bert")
    weights = loaded.state_dict()
    found["same"] = all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    """
    found = run_client(loopback_hub, code, tmp_path)
    assert found == {"module": "diffusers_modules", "size": [28, 28], "same": True}
    assert loopback_hub.repo("model", "tester/ddpm").settings["private"]
    assert loopback_hub.repo("model", "tester/bert").entry("model.safetensors").sha256


def test_gradio_client_finds_the_app_of_a_space(loopback_hub: LoopbackHub, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="needs gradio; install it with `pip install clinsynth[space]`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    loopback_hub.store.create("space", "tester/studio", True, "tester")
    loopback_hub.serve_space("tester/studio", f"http://127.0.0.1:{port}")
    code = f"""
    import os
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio
    from gradio_client import Client
    app = gradio.Interface(lambda text: text[::-1], "text", "text", api_name="reverse")
    app.launch(server_port={port}, prevent_thread_lock=True, quiet=True)
    client = Client("tester/studio", verbose=False, token={loopback_hub.token!r})
    found["answer"] = client.predict("abc", api_name="/reverse")
    found["absent"] = outcome(Client, "tester/none", verbose=False)
    app.close()
    """
    assert run_client(loopback_hub, code, tmp_path) == {"answer": "cba", "absent": "RepositoryNotFoundError"}
