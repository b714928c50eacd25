"""The judge clip: a real image-text model of tiny size that compares pictures with statements."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from judge_models import answers_without_clinsynth, arguments, pictures, save_checklist, save_tiny_clip, save_tiny_vlm
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from clinsynth.judges.checklists import load_checklist
from clinsynth.judges.judges import load_judge
from clinsynth.pipelines.checklist_judge.pipeline_checklist_judge import statements_of
from clinsynth.scripts.judge import main

OWN = {"statement": "a bright disc", "negation": "no disc at all"}


@pytest.fixture(scope="module", params=["CLIP", "SigLIP"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_clip(tmp_path_factory.mktemp("clip") / "model", kind=request.param))


@pytest.fixture
def judge(model: str, tmp_path: Path) -> Any:
    return load_judge("clip", model, str(save_checklist(tmp_path / "small.yaml", **OWN)))


def test_statements_are_the_checklist_s_or_made_of_the_question(tmp_path: Path) -> None:
    checklist = load_checklist(save_checklist(tmp_path / "a.yaml", **OWN)).model_dump(mode="json")
    assert statements_of(checklist, "grade 0") == {
        "disc": ("a bright disc", "no disc at all"),
        "red": ("picture. Is it red? Yes.", "picture. Is it red? No."),
    }
    half = load_checklist(save_checklist(tmp_path / "b.yaml", statement="a disc")).model_dump(mode="json")
    assert statements_of(half, "grade 0")["disc"] == ("a disc", "It is not so that: a disc")
    for changes, told in (({"negation": "no"}, "has no statement"), ({**OWN, "negation": "a bright disc"}, "is its")):
        with pytest.raises(ValueError, match=f"condition 'grade 0', item disc: its negation {told}"):
            load_checklist(save_checklist(tmp_path / "c.yaml", **changes))


def test_an_item_is_met_where_its_statement_is_nearer_than_its_negation(judge: Any, model: str) -> None:
    images = pictures(6)
    answers = judge([{"image": image, "condition": "grade 1"} for image in images])
    network, tokenizer = AutoModel.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    context = {"padding": "max_length", "max_length": 512} if "siglip" in network.config.model_type else {}
    texts = tokenizer(list(OWN.values()), return_tensors="pt", **({"padding": True} | context))
    pixels = AutoImageProcessor.from_pretrained(model)(images, return_tensors="pt")
    with torch.no_grad():
        chances = network(**texts, **pixels).logits_per_image.softmax(-1)[:, 0]
    assert [answer["scores"]["disc"] for answer in answers] == (chances > 0.5).int().tolist()
    assert [answer["reasons"]["disc"][-4:] for answer in answers] == [f"{float(chance):.2f}" for chance in chances]
    assert float(chances.std()) > 1e-6 and answers[0]["share"] == sum(answers[0]["scores"].values()) / 2


def test_answers_do_not_depend_on_the_batch(judge: Any) -> None:
    rows = [{"image": image, "condition": f"grade {n}"} for n, image in enumerate(pictures(5))]
    assert judge(rows) == judge(rows, batch_size=2) == [judge([row])[0] for row in rows]


def test_a_saved_judge_loads_without_clinsynth(tmp_path: Path) -> None:
    checklist = save_checklist(tmp_path / "small.yaml", **OWN)
    judge = load_judge("clip", str(save_tiny_clip(tmp_path / "model")), str(checklist)).pipeline
    judge.save_pretrained(tmp_path / "judge")
    image = pictures(1)[0]
    image.save(tmp_path / "eye.png")
    assert answers_without_clinsynth(tmp_path) == judge({"image": image, "condition": "grade 2"})


def test_the_command_says_by_what_it_judged(model: str, tmp_path: Path) -> None:
    main(arguments(tmp_path, judge="clip", judge_model=model))
    judged = json.loads((tmp_path / "judged" / "judged.json").read_text())
    assert (judged["judge"], judged["model"], judged["checklist"]) == ("clip", model, "small")
    assert judged["overall"]["passed"]["n"] == 20 and set(judged["overall"]["items"]) == {"disc", "red"}
    again = load_judge("clip", model, str(tmp_path / "small.yaml")).identity()
    assert again == {name: judged[name] for name in again} and len(again["weights_sha256"]) == 64


def test_models_and_statements_that_will_not_do_are_named(tmp_path: Path) -> None:
    checklist = str(save_checklist(tmp_path / "small.yaml"))
    with pytest.raises(ValueError, match=r"the judge's image-text model .*nowhere cannot be loaded"):
        load_judge("clip", str(tmp_path / "nowhere"), checklist)
    with pytest.raises(ValueError, match=r"is a LlavaModel, which does not compare images with texts"):
        load_judge("clip", str(save_tiny_vlm(tmp_path / "other")), checklist)
    short = save_tiny_clip(tmp_path / "short", context=12)
    with pytest.raises(ValueError, match=r"condition 'grade 0', item disc has a statement of \d+ tokens, but .* 12;"):
        load_judge("clip", str(short), checklist)
