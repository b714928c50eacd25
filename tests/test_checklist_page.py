"""The page on which experts correct and sign a checklist."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from test_checklists import a_checklist, an_item, write

from clinsynth.judges.checklists import checklist_names, load_checklist
from clinsynth.scripts.sign_checklist import ChecklistPageArguments, main


def page_of(folder: Path, *items: dict[str, Any], **changes: Any) -> str:
    write(folder, a_checklist(*items, **changes))
    main(ChecklistPageArguments(checklist=str(folder / "small.yaml"), output=str(folder / "small.html")))
    return (folder / "small.html").read_text()


def between(page: str, start: str, end: str) -> str:
    return page.partition(start)[2].partition(end)[0]


def sign(page: str, edits: list[dict[str, Any]]) -> dict[str, Any]:
    """What the page's own code makes of its checklist, of edits and of a signature."""
    if not shutil.which("node"):
        pytest.skip("needs node, to run the page's script")
    data, code = between(page, 'id="checklist">', "</script>"), between(page, "<script>", "</script>")
    call = f"{code}; console.log(JSON.stringify(signed({data}, {json.dumps(edits)}, ' A. Expert ', '2026-02-01')))"
    ran = subprocess.run(["node", "-e", call], capture_output=True, text=True, timeout=60, check=True)
    made: dict[str, Any] = json.loads(ran.stdout)
    return made


@pytest.mark.parametrize("name", checklist_names())
def test_every_question_and_criterion_can_be_edited(name: str, tmp_path: Path) -> None:
    main(ChecklistPageArguments(checklist=name, output=str(tmp_path / "page.html")))
    page, checklist = (tmp_path / "page.html").read_text(), load_checklist(name)
    items = [item for items in checklist.conditions.values() for item in items]
    assert page.count('data-key="question"') == page.count('data-key="criterion"') == len(items)
    assert page.count('data-key="skin_types"') == sum(len(item.skin_types) for item in items)
    assert "<script src" not in page and "<link" not in page and "fetch(" not in page


def test_a_signed_page_is_a_checklist_of_a_version_of_its_own(tmp_path: Path) -> None:
    page = page_of(tmp_path, an_item(skin_types={"dark": "Violet."}))
    place = {"condition": "spot", "item": "0"}
    same = [{**place, "key": "criterion", "words": "Red,  not\nbrown."}]
    other = [{**place, "key": "skin_types", "skin": "dark", "words": "Grey."}]
    for edits, version, words in ((same, 2, "Violet."), (other, 3, "Grey.")):
        path = tmp_path / "signed.yaml"
        path.write_text(json.dumps(sign(page, edits)))
        checklist = load_checklist(path)
        assert checklist.version == version and checklist.is_signed() and checklist.signed[0].name == "A. Expert"
        assert checklist.items("spot")[0].skin_types == {"dark": words}


def test_words_of_a_checklist_are_no_markup(tmp_path: Path) -> None:
    words = "</script><b>bold</b> & 'so'"
    page = page_of(tmp_path, an_item(criterion=words))
    assert "<b>bold" not in page and page.count("</script>") == 2
    data = json.loads(between(page, 'id="checklist">', "</script>"))
    assert data["conditions"]["spot"][0]["criterion"] == words


def test_bad_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--checklist is missing"):
        ChecklistPageArguments()
    with pytest.raises(ValueError, match=r"--output must end in .html, got a.pdf"):
        ChecklistPageArguments(checklist="skin", output="a.pdf")
    with pytest.raises(ValueError, match=r"there is no folder .*gone; make it"):
        main(ChecklistPageArguments(checklist="skin", output=str(tmp_path / "gone" / "a.html")))
