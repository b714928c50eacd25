"""Sources and licences, private words, and the cards of metrics and Spaces."""

import re
from pathlib import Path

import pytest
from helpers import REPOSITORY, run_python
from huggingface_hub import CardData, SpaceCard
from loopback_hub.cards import check_card

from clinsynth.hub_cards.code_cards import metric_card, space_card
from clinsynth.hub_cards.dataset_card import Publication
from clinsynth.hub_cards.evidence_summary import EvidenceSummary
from clinsynth.hub_cards.render import Table, cell, render_card
from clinsynth.hub_cards.sources import Source, Terms, find_source
from clinsynth.private_words import describe_command, hub_id, shorten

HAM_CLASSES = ["nv", "mel", "bkl", "bcc", "akiec", "vasc", "df"]


@pytest.mark.parametrize(
    ("spec", "name", "license_"),
    [
        ("retinamnist.npz", "RetinaMNIST", "cc-by-4.0"),
        ("/data/pneumoniamnist_reconstructed.npz", "PneumoniaMNIST", "cc-by-4.0"),
        ("dermamnist_64.npz", "DermaMNIST", "cc-by-nc-4.0"),
        ("../shared/ham10000_128", "HAM10000", "cc-by-nc-4.0"),
        ("mts_dialog", "MTS-Dialog", "cc-by-4.0"),
        ("counselchat/counselchat_min.csv", "CounselChat", "mit"),
        ("phantom-fundus", "phantom-fundus", "apache-2.0"),
        ("phantom-posts?texts=100", "phantom-posts", "apache-2.0"),
        ("retinamnist-of-ours/patients.npz", "", ""),
        ("patients.csv", "", ""),
        (None, "", ""),
    ],
)
def test_known_data_sets_and_their_licences(spec: str | None, name: str, license_: str, tmp_path: Path) -> None:
    source = find_source(spec, tmp_path)
    assert (source.name, source.license) == (name, license_)


def test_a_renamed_set_is_known_by_its_files_or_classes(tmp_path: Path) -> None:
    (tmp_path / "MTS-Dialog-TrainingSet.csv").touch()
    assert find_source(str(tmp_path), tmp_path).name == "MTS-Dialog"
    assert find_source("skin", tmp_path, HAM_CLASSES).license == "cc-by-nc-4.0"
    assert find_source("skin", tmp_path, HAM_CLASSES[1:]).license == ""


def test_non_commercial_data_give_a_non_commercial_card(tmp_path: Path) -> None:
    skin, eyes = find_source("ham10000", tmp_path), find_source("retinamnist.npz", tmp_path)
    assert Terms().card_license([skin]) == "cc-by-nc-4.0" and Terms().card_license([eyes]) == "cc-by-4.0"
    assert Terms().card_license([eyes, skin]) == "cc-by-nc-4.0"
    assert Terms(license="cc-by-nc-sa-4.0").card_license([skin]) == "cc-by-nc-sa-4.0"
    assert Terms().card_license([find_source("patients.csv", tmp_path)]) == ""
    for terms in (Terms(license="apache-2.0"), Terms(data_license="mit")):
        with pytest.raises(ValueError, match="non-commercial"):
            terms.card_license([skin])
    assert Terms(license="apache-2.0", license_override="we own it").card_license([skin]) == "apache-2.0"
    with pytest.raises(ValueError, match="give license="):
        Terms(license_override="we own it")
    with pytest.raises(ValueError, match="identifier of the Hub"):
        Terms(data_license="CC BY-NC 4.0")


def test_ids_of_the_hub_are_told_from_paths(tmp_path: Path) -> None:
    (tmp_path / "runs" / "retina").mkdir(parents=True)
    assert hub_id("me/eyes", tmp_path) == "me/eyes" and hub_id("runs/retina", tmp_path / "runs") is None
    assert [hub_id(spec, tmp_path) for spec in ("a/b.csv", "/a/b", "a/b/c", "eyes", "../eyes", None)] == [None] * 6
    source = Terms(data_url="https://huggingface.co/datasets/me/eyes").overrule(find_source("x.csv", tmp_path))
    assert source.hub_id == "me/eyes"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/falk/My Data/eyes.npz", "eyes.npz"),
        ("~/eyes.npz", "eyes.npz"),
        ("../../falk/eyes", "eyes"),
        ("runs/../../falk/eyes", "eyes"),
        (r"C:\Users\falk\eyes.npz", "eyes.npz"),
        ("file:///home/falk/eyes.npz", "eyes.npz"),
        ("http://user:key@10.0.0.7/v1", "…"),
        ("runs/retina", "runs/retina"),
        ("near copies by /home/falk/vgg (transformers), where 1.5", "near copies by vgg (transformers), where 1.5"),
        ("cells and/or plasma, 3/4", "cells and/or plasma, 3/4"),
        ("see https://arxiv.org/abs/2006.11239 for it", "see https://arxiv.org/abs/2006.11239 for it"),
    ],
)
def test_paths_are_shortened(text: str, shown: str) -> None:
    assert shorten(text) == shown


def test_commands_are_those_to_type(tmp_path: Path) -> None:
    command = [
        "train_ddpm.py",
        "--dataset",
        "ward/falk/eyes.npz",
        "--output_dir=/tmp/x y/out",
        "--label_names",
        "a b,c",
    ]
    shown = "clinsynth train ddpm --dataset eyes.npz --output_dir=out --label_names 'a b,c'"
    assert describe_command(command, tmp_path) == shown
    assert describe_command(["__main__.py", "summarize", "--dataset", "me/eyes"], tmp_path) == (
        "clinsynth summarize --dataset me/eyes"
    )
    drawn = describe_command("clinsynth generate images --engine ray --address node-a.clinic:6379".split(), tmp_path)
    assert drawn == "clinsynth generate images --engine ray --address …"
    assert describe_command(["pytest", "-q"], tmp_path) is None and describe_command(None, tmp_path) is None


HOSTILE = "a|b\n# <script>*x* [y](z)\x07 \u202e`rm`"
SAFE = r"a\|b # &lt;script>\*x\* \[y\](z) \`rm\`"


def test_cells_hold_no_mark_up() -> None:
    assert cell(HOSTILE) == cell(cell(HOSTILE)) == SAFE


@pytest.mark.parametrize("template", ["dataset.md", "datasets.md", "model.md", "space.md"])
def test_each_field_of_a_card_is_escaped_once(template: str) -> None:
    """Whatever a template is handed, text stands in it as text: it begins no tag, link, table or heading."""
    table = Table(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]], HOSTILE)
    facts = {HOSTILE: HOSTILE}
    source = Source(*[HOSTILE] * 7)
    body = render_card(
        template,
        CardData(),
        **dict.fromkeys(("title", "things", "summary", "image", "body", "app_file", "accepted_risk"), HOSTILE),
        **dict.fromkeys(("overview", "made", "settings", "spent"), facts),
        **dict.fromkeys(("columns", "counts", "prompts"), table),
        **{name: [HOSTILE] for name in "own_limits models datasets works commands".split()},
        labels=[HOSTILE.replace("\x07", "")],
        **dict.fromkeys(("place", "first", "base"), "me/x"),
        measured=EvidenceSummary([(HOSTILE, HOSTILE)], [table], [table], [HOSTILE]),
        license="other",
        source=source,
        terms=Terms(license="other", license_override=HOSTILE),
        published=Publication(None, [HOSTILE], [[HOSTILE] * 4], turned=3),  # type: ignore[arg-type]
        rows={HOSTILE: 1},
        lora=None,
        steps=False,
        warn=True,
        requirements=True,
    )
    shown = body.replace(r"\`", "'").replace("<details>\n<summary>", "")
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", shown, flags=re.DOTALL)
    assert SAFE in body and "<script" not in prose and r"\\" not in prose and "\u202e" not in body
    assert not re.search(r"(?<!\\)\[y|^# <", prose, re.MULTILINE)


def test_metric_cards_keep_the_rules_and_their_snippets_run(tmp_path: Path) -> None:
    code = ""
    for name in ("frechet", "kid", "mmd", "prdc", "ssim"):
        folder = REPOSITORY / "metrics" / name
        card = metric_card(folder, repo_id=f"me/{name}")
        assert check_card(card, "space") == ([], []) and SpaceCard(card).data.tags[:2] == ["evaluate", "metric"]
        (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert f'evaluate.load("me/{name}")' in snippet and "nothing about any patient" in card
        code += snippet.replace(f"me/{name}", str(folder))
    found = run_python("-c", code, HF_HOME=str(tmp_path)).stdout.splitlines()
    assert [line.partition("'")[2].partition("'")[0] for line in found] == [
        "frechet", "kid", "mmd_squared", "precision", "ms_ssim_within",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must end in kid"):
        metric_card(REPOSITORY / "metrics" / "kid", repo_id="me/distance")
    with pytest.raises(ValueError, match=r"lacks metrics\.py"):
        metric_card(REPOSITORY / "metrics")


def test_a_space_keeps_its_own_words_and_header(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks app\.py"):
        space_card(tmp_path, repo_id="me/studio")
    (tmp_path / "app.py").touch()
    (tmp_path / "requirements.txt").write_text("gradio[oauth]==6.31.0\n")
    card = space_card(tmp_path, ["me/retina-ddpm"], repo_id="me/studio")
    data = SpaceCard(card).data
    assert (data.title, data.sdk_version, data.models) == ("studio", "6.31.0", ["me/retina-ddpm"])
    assert "Not for diagnosis" in card and check_card(card, "space") == ([], [])
    (tmp_path / "README.md").write_text(
        "---\ntitle: Studio\nemoji: 👁\nsdk: gradio\nsdk_version: 6.30.0\nmodels:\n- me/old\n---\n\n# Studio\n\n"
        "Not for diagnosis.\n"
    )
    card = space_card(tmp_path, ["me/retina-ddpm"], ["me/eyes"])
    data = SpaceCard(card).data
    assert (data.title, data.emoji, data.sdk_version) == ("Studio", "👁", "6.30.0")
    assert data.models == ["me/old", "me/retina-ddpm"] and data.datasets == ["me/eyes"]
    assert card.count("# Studio") == 1 and card.lower().count("not for diagnosis") == 1
    with pytest.raises(ValueError, match="by their ids"):
        space_card(tmp_path, ["/home/falk/retina"])
