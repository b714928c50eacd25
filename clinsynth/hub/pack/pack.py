"""The pack: forms filled from a run's files, as pack.json, one page, its print, and what machines read beside."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clinsynth import __version__
from clinsynth.hub.credentials import VALID
from clinsynth.hub.pack.files import cite_json
from clinsynth.hub.pack.forms import NO_FILE, NOT_MEASURED, RECORDED, Statement, fill, read_form
from clinsynth.hub.pack.runs import PackedRun, PackedSet
from clinsynth.hub.rows import manifest_of, read_signature, sign_manifest
from clinsynth.hub.signing import SigningIdentity
from clinsynth.hub_cards.croissant import HOW_TO, Shard, describe_set, import_mlcroissant
from clinsynth.hub_cards.evidence import check_about_set, read_evidence
from clinsynth.private_words import refuse_private
from clinsynth.reports.page import IMAGES, NO_CLINICIAN, NO_PROOF, TEXTS, render_page
from clinsynth.run_folder import atomic_write, read_json
from clinsynth.synthesis.provenance import find_provenance
from clinsynth.synthesis.shard_files import hash_each, shard_paths
from clinsynth.trainers.classifiers.arms import ARMS, TEXT_ARMS

OF_EACH_SET = ("scorecard", "attacks", "generator", "article50")
OF_THE_RUN = ("claim_2024", "datasheet")
NO_CLAIM = (
    "Nothing here claims that a law, a standard or a checklist is complied with. It repeats what files of the run "
    "say, each with its place, says what was not measured, and leaves open what only a human knows."
)
THIS = "pack"
"""How the pack's own folder is called where its files are cited."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PRINT_SECONDS = 120


def gather(run: PackedRun) -> dict[str, Any]:
    """pack.json: the first page, what is said of each set and of the run as a whole, and the files it rests on."""
    kinds, all_sources = run.kinds, run.sources()
    first = fill(read_form("first_page"), all_sources, kinds)
    first["items"].insert(6, {"name": "Arms", "asks": "", "statements": [s.to_dict() for s in arms_of(run)]})
    forms = [form for form in map(read_form, OF_THE_RUN) if not form.when or form.when in kinds]
    return {
        "made_by": {"name": "clinsynth", "version": __version__},
        "claims": NO_CLAIM,
        "first_page": first,
        "sets": {
            one.name: {
                "kind": one.kind,
                "forms": [fill(read_form(name), one.sources, [one.kind]) for name in OF_EACH_SET],
            }
            for one in run.sets
        },
        "forms": [fill(form, all_sources, kinds) for form in forms],
        "files": dict(sorted(run.files.sha256.items())),
    }


def arms_of(run: PackedRun) -> Iterator[Statement]:
    """Which arms each study of classifiers trained, and which it did not."""
    studies = [node.find("arms/*/arm") for node in run.results]
    studies += [node.find("classifier/arms/*/arm") for node in run.sources().get("evidence", [])]
    if not any(studies):
        yield Statement(NOT_MEASURED, "No classifier was trained in any arm.", source=NO_FILE)
    known = TEXT_ARMS if run.kinds == ["texts"] else ARMS
    for found in filter(None, studies):
        trained = list({one.value: one for one in found}.values())
        names = [str(one.value) for one in trained]
        yield Statement(RECORDED, f"trained: {', '.join(names)}", [(one, str(one.value)) for one in trained])
        left = [arm for arm in known if not any(name == arm or name.startswith(f"{arm}-") for name in names)]
        yield Statement(NOT_MEASURED, f"no arm of these kinds: {', '.join(left)}", source=trained[0].file)


def pack_page(pack: dict[str, Any], kinds: list[str]) -> str:
    """The page as HTML."""
    things = {"images": IMAGES, "texts": TEXTS}
    limits = [NO_CLAIM, *(NO_CLINICIAN[things[kind]] for kind in kinds), NO_PROOF]
    return render_page("report_pack", limits, pack=pack)


def write_pack(run: PackedRun, output_dir: Path, identity: SigningIdentity | None = None) -> list[Path]:
    """Write the pack; returns its files. All of it is made before the first is written.

    Args:
        identity: who signs the manifest of text rows.

    Raises:
        ValueError: it would give something private away.
    """
    run.files.add_root(output_dir, THIS)
    beside: dict[str, bytes] = {}
    for one in run.sets:
        if one.kind == "texts":
            beside |= manifest_files(one, run, output_dir, identity)
        beside |= croissant_file(one)
    pack = gather(run)
    text = refuse_private(json.dumps(pack, indent=1, ensure_ascii=False) + "\n", "pack.json")
    page = refuse_private(pack_page(pack, run.kinds), "pack.html")
    is_new = not same(output_dir / "pack.html", page)
    written = {"pack.json": text.encode(), "pack.html": page.encode(), **beside}
    for name, content in written.items():
        atomic_write(output_dir / name, content)
    for path in output_dir.glob("rows-*.jws"):
        if path.name not in written:  # of a manifest that is no longer so
            path.unlink()
    return [*(output_dir / name for name in written), *print_page(output_dir, is_new)]


def manifest_files(
    one: PackedSet, run: PackedRun, output_dir: Path, identity: SigningIdentity | None
) -> dict[str, bytes]:
    """The manifest of a set's rows, and its signature: the one that lies there and holds, or one by `identity`."""
    path = output_dir / f"rows-{one.name}.json"
    folder = one.made.run.folder
    values = manifest_of(shard_paths(folder), find_provenance(one.made.generation, folder))
    node, content = cite_json(run.files.name_of(path), values)
    run.files.sha256[node.file] = hashlib.sha256(content).hexdigest()
    one.sources["rows"] = [node]
    signature = kept_signature(path, content, identity)
    if signature is None and identity is not None:
        signature = sign_manifest(content, identity)
    if signature is None:
        return {path.name: content}
    signed, words = cite_json(run.files.name_of(path.with_suffix(".jws")), signature)
    run.files.sha256[signed.file] = hashlib.sha256(words).hexdigest()
    one.sources["signature"] = signed.find("header")
    return {path.name: content, path.with_suffix(".jws").name: words}


def kept_signature(path: Path, content: bytes, identity: SigningIdentity | None) -> dict[str, Any] | None:
    """The signature beside a manifest, where it holds for this content, and is by the certificate of `identity`."""
    if not path.is_file() or path.read_bytes() != content:
        return None
    found = read_json(path.with_suffix(".jws"))
    if not found or (read_signature(path) or {}).get("state") != VALID:
        return None
    its = (found.get("header") or {}).get("certificate_sha256")
    return found if identity is None or its == identity.sha256 else None


def croissant_file(one: PackedSet) -> dict[str, bytes]:
    """The Croissant description of a set; none without mlcroissant, which is said."""
    mlc = import_mlcroissant()
    if mlc is None:
        print(f"no croissant-{one.name}.json: {HOW_TO}")
        return {}
    evidence = read_evidence(one.evidence)
    if evidence is not None:
        check_about_set(evidence, one.made.generation, one.made.run.folder)
    hashed = hash_each(one.made.run.folder)
    shards = {f"data/{path.name}": Shard(file.sha256.hex(), file.size) for path, file in hashed.items()}
    found = describe_set(mlc, one.made, shards, evidence)
    name = f"croissant-{one.name}.json"
    return {name: refuse_private(json.dumps(found, indent=1, ensure_ascii=False) + "\n", name).encode()}


def same(path: Path, content: str) -> bool:
    """Whether a file holds just this."""
    return path.is_file() and path.read_text(encoding="utf-8") == content


def print_page(output_dir: Path, is_new: bool) -> Iterator[Path]:
    """pack.pdf, where a browser that can print is at hand; printed anew where the page is."""
    page, target = output_dir / "pack.html", output_dir / "pack.pdf"
    if target.exists() and not is_new:
        yield target
        return
    target.unlink(missing_ok=True)
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"no browser was found ({', '.join(BROWSERS)}): open {page} and print it to have a PDF")
        return
    aside = target.with_name(f".{target.name}.tmp")
    words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    try:
        subprocess.run(
            [*words, f"--print-to-pdf={aside}", page.resolve().as_uri()],
            capture_output=True, check=True, timeout=PRINT_SECONDS,
        )  # fmt: skip
        aside.replace(target)
        yield target
    except (subprocess.SubprocessError, OSError) as error:
        aside.unlink(missing_ok=True)
        print(f"{browser} could not print {page} ({type(error).__name__}): print it from a browser to have a PDF")
