"""What evidence is bound to: its real rows, its shards, the generator's training data, and the run that measured it.

evidence.json names digests of the contents of each real split and of the shards, and is signed (HMAC-SHA256) with a
key in the user's configuration folder. That guards against mistakes, a hand edit among them, and not against the key's
owner. Beside it lie digests of each real row, by which a push counts exact copies once more.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

from clinsynth.hub.gate import Reading
from clinsynth.metrics.privacy.exact import TRAINED_ON, count_exact, digests_of_shards, split_digest
from clinsynth.run_folder import atomic_write, read_json
from clinsynth.synthesis.sets import SetReader
from clinsynth.synthesis.shard_files import hash_shards, shard_paths

EVIDENCE, DIGESTS = "evidence.json", "real_digests.json"
HINT = "run `clinsynth evaluate` on this set here, which keeps what it has measured"


def write_evidence(output_dir: Path, evidence: dict[str, Any], synthetic: str, real: dict[str, list[str]]) -> None:
    """Write evidence.json, bound and signed, and the digests of the real rows beside it.

    Args:
        synthetic: the folder of the set that was measured.
        real: digests of the rows of each real split.
    """
    data = evidence["data"]
    data["shards_sha256"] = hash_shards(synthetic)
    data["real_sha256"] = {split: split_digest(digests) for split, digests in real.items()}
    data["trained_on"] = trained_on(evidence.get("generation"))
    content = json.loads(json.dumps(evidence))
    content["signature"] = sign(content)
    atomic_write(output_dir / DIGESTS, json.dumps({split: sorted(digests) for split, digests in real.items()}))
    atomic_write(output_dir / EVIDENCE, json.dumps(content, indent=1) + "\n")


def trained_on(generation: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the generator's run folder says of the rows that it was trained on; None where that is not at hand."""
    model = ((generation or {}).get("generator") or {}).get("model")
    return (read_json(Path(str(model)) / TRAINED_ON) or None) if model else None


def key_file() -> Path:
    """Where this user's key lies."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "clinsynth" / "evidence.key"


def read_key() -> bytes | None:
    """This user's key, made where there is none; None where it can be neither read nor made."""
    path = key_file()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(32))
        return path.read_bytes()
    except FileExistsError:
        return path.read_bytes()  # another process has made it meanwhile
    except OSError as error:
        print(f"{path} cannot be used ({error.strerror}): the evidence is not signed, so that no set is pushed by it")
        return None


def sign(content: dict[str, Any]) -> str | None:
    """The signature of an evidence.json, without the one that it has; None without a key."""
    key = read_key()
    if key is None:
        return None
    told = {name: part for name, part in content.items() if name != "signature"}
    return hmac.new(key, json.dumps(told, sort_keys=True).encode(), hashlib.sha256).hexdigest()


def read_seal(folder: Path) -> list[Reading]:
    """What the gate reads of what the evidence in `folder` is bound to."""
    content = read_json(folder / EVIDENCE)
    return [read_signature(content), read_training(content)]


def read_signature(content: dict[str, Any]) -> Reading:
    """Whether a run of this user wrote the evidence as it is."""
    given, own = content.get("signature"), sign(content)
    valid = isinstance(given, str) and own is not None and hmac.compare_digest(given, own)
    found = "holds" if valid else "changed since, or by another user's key" if given else "there is none"
    return Reading("signature of the evidence", found, "as `clinsynth evaluate` signed it", valid)


def read_training(content: dict[str, Any]) -> Reading:
    """Whether the evidence's train split is what the generator was trained on, as far as that is at hand."""
    data, limit = content["data"], "the generator's training data"
    told, real = data.get("trained_on"), (data.get("real_sha256") or {}).get("train")
    name = "train split of the evidence"
    if not isinstance(told, dict) or told.get("shape") != shape_of(data):
        return Reading(name, "what the generator was trained on is not at hand", limit, real is not None)
    same = told.get("sha256") == real
    return Reading(name, "the same rows" if same else "other rows than the generator was trained on", limit, same)


def shape_of(data: dict[str, Any]) -> list[int] | None:
    """Channels and side of the images that were compared; None of texts."""
    return [data["channels"], data["resolution"], data["resolution"]] if "resolution" in data else None


def recount(folder: Path, content: dict[str, Any], synthetic: Path) -> dict[str, Any] | None:
    """Exact copies counted anew, as `count_exact` gives them; None where no digests of real rows lie in `folder`.

    Raises:
        ValueError: the digests are of other real rows than the evidence is about.
    """
    real = read_json(folder / DIGESTS)
    if not real:
        return None
    if {split: split_digest(digests) for split, digests in real.items()} != content["data"].get("real_sha256"):
        raise ValueError(f"{folder / DIGESTS} is of other real rows than the evidence beside it is about; {HINT}")
    reader = SetReader(str(synthetic), shard_paths(synthetic))
    column = "image" if "image" in reader.columns else "text"
    return count_exact(digests_of_shards(reader.tables([column])), real)
